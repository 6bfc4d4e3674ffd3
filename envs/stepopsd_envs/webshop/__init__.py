"""WebShop: shopping by text, over official or generated products, with nothing to install."""
