"""Making clicks in a browser: ``pdetr3d click``.

``rays.py`` (geometry), ``session.py`` (acts and the file) and ``sheet.py`` (where images lie) know no browser;
``page.py`` shows them with viser.
"""
