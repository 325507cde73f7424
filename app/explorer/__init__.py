"""The explorer: a Streamlit script, and what its pages share.

Pages read Results and call the library; they compute nothing themselves. Nothing here is kept for all
sessions but models, images that were given, and results, none of which is changed once made.
"""
