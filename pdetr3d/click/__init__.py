"""The click page of ``pdetr3d click``: people click objects in a browser.

``rays.py`` (geometry), ``session.py`` (actions and the file) and ``sheet.py`` (places of the images) are independent of
the browser; ``page.py`` shows them with viser.
"""
