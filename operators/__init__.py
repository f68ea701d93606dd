"""Forward operators, y = A(x): one instrument family per file, each a ``deepinv.physics.Physics``.

``import operators`` is cheap: torch and deepinv are imported when a name below is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
