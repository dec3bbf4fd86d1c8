"""A program as C99.

``places.py`` is where a value lies when another one reads it, ``nests.py`` which values are computed together,
``scalars.py`` one operation on one number, ``functions.py`` the elementary functions, ``step_body.py`` what a step
computes, ``file_text.py`` the file around it.
"""
