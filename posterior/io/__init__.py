"""Reading and writing: the registry of datasets, and the files that operators, data and images come from.

``import posterior.io`` is cheap: what a reader needs is imported when a name below is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
