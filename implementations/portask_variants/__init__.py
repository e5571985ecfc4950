"""Alternative implementations of Portask's parts, one file a variant; `registry.py` lists them."""
