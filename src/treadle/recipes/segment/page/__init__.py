"""The page on which a user selects objects by clicks: plain HTML and JavaScript, served to this machine only.

No request names a file.
"""

from treadle.recipes.segment.page.application import MOST_BYTES, application, serve

__all__ = ["MOST_BYTES", "application", "serve"]
