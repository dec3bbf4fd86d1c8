"""The page on which a user selects objects by clicks: plain HTML and JavaScript, served to this machine only.

`application` answers requests and holds the sessions; `serve` listens on the loopback address. No request names a file.
"""

from treadle.recipes.segment.page.application import MOST_BYTES, application
from treadle.recipes.segment.page.serve import serve

__all__ = ["MOST_BYTES", "application", "serve"]
