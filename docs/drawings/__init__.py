"""The pictures of the pages: `make pictures` writes them to docs/pictures, the build checks that they are fresh.

``catalogue.py`` lists them; ``canvas.py`` is the paper and ``colors.py`` the ink; a file each draws one picture, or
some of a kind. ``learned.py`` keeps what took a training, ``freshness.py`` says which pictures are stale.
"""
