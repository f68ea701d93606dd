"""Operators made of operators: one after the other, several at once, and with an offset.

Each is linear, a ``deepinv.physics.LinearPhysics`` with its adjoint, exactly where all its parts are; with one part that is
not it is a ``Physics``, differentiated by autograd. Parts may be of this package or of deepinv.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from operators.linear import ComplexBuffers, Linear


class _Combination(ComplexBuffers, Physics):
    """Base of operators made of operators: ``parts``, and the event shape of x where it is known, ``img_size``."""

    parts: Any
    img_size: tuple[int, ...] | None
    # The class that is built when all parts are linear: a subclass of each one's own, which ClassVar has no way to say.
    _linear: ClassVar[Any]

    def _keep(self, parts: Iterable[Physics], img_size: tuple[int, ...] | None) -> None:
        self.parts = torch.nn.ModuleList(parts)
        self.img_size = img_size

    def A_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Derivative of A at x along v, by autograd."""
        return torch.func.jvp(self.A, (x,), (v,))[1]

    def update_parameters(self, **kwargs: Any) -> None:
        """Pass new parameters on to every part, as deepinv does."""
        for part in self.parts:
            part.update_parameters(**kwargs)


class _After(Physics):
    """What is done with the data of a linear operator."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """f(x)."""
        return self.f(x)


Halves = tuple[Physics, Physics]  # f and B of an operator f(B(x)), B linear


def _halves(operator: Physics) -> Halves | None:
    """Of one that is not linear, where it has them."""
    return operator.linear_inside() if isinstance(operator, Compose | Stack | Offset) else None


class Compose(_Combination):
    r"""One operator after another, :math:`y = A_1(A_2(\dots A_n(x)))`, the last one first, as it is written.

    ``Compose(WindSpeed(), stations)`` is the speed at stations. Linear, with the adjoint :math:`A_n^T \dots A_1^T`, where all
    are. There is no noise, whatever the parts have. Arguments of a call are passed on to every part.

    Args:
        *operators: One or more; each takes what the next one gives.

    Raises:
        TypeError: One is not a deepinv Physics.
    """

    def __new__(cls, *operators: Physics) -> Self:
        return super().__new__(cls._linear if _all_linear(operators) else cls)

    def __init__(self, *operators: Physics) -> None:
        _check_physics("Compose", dict(enumerate(operators)))
        super().__init__()
        self._keep(operators, getattr(operators[-1], "img_size", None))

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The last operator's data, put through the others."""
        for part in reversed(self.parts):
            x = part.A(x, **parameters)
        return x

    def linear_inside(self) -> "Halves | None":
        """The operator as one that is not linear after one that is; None where the first that sees x is not, or all are."""
        after = next((i + 1 for i in reversed(range(len(self.parts))) if not isinstance(self.parts[i], LinearPhysics)), 0)
        if not after:
            return None
        if after < len(self.parts):
            return Compose(*self.parts[:after]), Compose(*self.parts[after:])
        halves = _halves(self.parts[-1])
        return None if halves is None else (Compose(*self.parts[:-1], halves[0]), halves[1])


class LinearCompose(Compose, Linear):
    """A :class:`Compose` of linear operators; made by calling that."""

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoints in turn, the first operator's first."""
        for part in self.parts:
            y = part.A_adjoint(y, **parameters)
        return y

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^T A x, with the first operator's own short cut."""
        for part in reversed(self.parts[1:]):
            x = part.A(x, **parameters)
        x = self.parts[0].A_adjoint_A(x, **parameters)
        for part in self.parts[1:]:
            x = part.A_adjoint(x, **parameters)
        return x


Compose._linear = LinearCompose


class Stack(_Combination):
    r"""Several instruments that see one field, as one operator with one flat data vector :math:`y = (y_1, \dots, y_k)`.

    The data of each part are flattened, complex ones to pairs of real and imaginary part, and put one after the other: y is
    (B, m). ``join`` makes such a vector of separate data, ``split`` takes it apart again, ``sigma`` makes the standard
    deviation of each entry from those of the instruments. Linear, with the sum of the adjoints, where all parts are. There is
    no noise, whatever the parts have. Arguments of a call are passed on to every part.

    Args:
        operators: The instruments, by name or in order (their names are then 0, 1, ...).
        shape: Event shape of the field; default that of the first part that knows its own (``img_size``).

    Attributes:
        names: Of the parts, in the order of their data.
        data_sizes: Shapes of their data, without the batch.

    Raises:
        TypeError: One is not a deepinv Physics.
        ValueError: There is none, the shape is not known, or a part does not take such a field.
    """

    def __new__(cls, operators: Mapping[Any, Physics] | Sequence[Physics] = (), *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls._linear if _all_linear(_named(operators).values()) else cls)

    def __init__(self, operators: Mapping[Any, Physics] | Sequence[Physics], shape: tuple[int, ...] | None = None) -> None:
        named = _named(operators)
        _check_physics(type(self).__name__, named)
        if isinstance(shape, Physics):
            raise TypeError(f"Stack: shape is a {type(shape).__name__}; wanted (C, ...), and all the operators in one list")
        known = [size for part in named.values() if (size := getattr(part, "img_size", None)) is not None]
        if shape is None and not known:
            raise ValueError(f"{type(self).__name__}: no part knows the shape of its field; pass shape=(C, ...)")
        super().__init__()
        field = tuple(known[0] if shape is None else shape)
        self._keep(named.values(), field)
        self.names: tuple[Hashable, ...] = tuple(named)
        outputs = [_probe(type(self).__name__, name, part, field) for name, part in named.items()]
        self.data_sizes = tuple(tuple(out.shape[1:]) for out in outputs)
        self._complex = tuple(out.is_complex() for out in outputs)
        self._lengths = [out.numel() * (1 + out.is_complex()) for out in outputs]

    def __getitem__(self, name: Hashable) -> Physics:
        """The part of this name."""
        return self.parts[self.names.index(name)]

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, *shape) -> (B, m)."""
        return torch.cat([_flat(part.A(x, **parameters)) for part in self.parts], dim=1)

    def linear_inside(self) -> Halves | None:
        """See `Compose.linear_inside`: the stack of what each part has inside."""
        found = [(_After(lambda v: v), p) if isinstance(p, LinearPhysics) else _halves(p) for p in self.parts]
        halves = [h for h in found if h is not None]
        if isinstance(self, LinearPhysics) or len(halves) < len(found):
            return None
        inner = Stack([b for _, b in halves], self.img_size)

        def outer(seen: Tensor) -> Tensor:
            pieces = zip(halves, inner.split(seen).values(), strict=True)
            return torch.cat([_flat(f.A(v)) for (f, _), v in pieces], dim=1)

        return _After(outer), inner

    def split(self, y: Tensor) -> dict[Hashable, Tensor]:
        """The data of each part, (B, *its shape), from one vector (B, m).

        Raises:
            ValueError: ``y`` is no such vector.
        """
        if not isinstance(y, Tensor) or y.ndim != 2 or y.shape[1] != sum(self._lengths):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"{type(self).__name__}: y must be (B, {sum(self._lengths)}), got {got}")
        pieces = []
        for piece, size, is_complex in zip(y.split(self._lengths, dim=1), self.data_sizes, self._complex, strict=True):
            piece = torch.view_as_complex(piece.reshape(len(y), *size, 2)) if is_complex else piece
            pieces.append(piece.reshape(len(y), *size))
        return dict(zip(self.names, pieces, strict=True))

    def join(self, data: Mapping[Any, Tensor] | Sequence[Tensor]) -> Tensor:
        """One vector (B, m) from the data of each part, (B, *its shape).

        Raises:
            ValueError: The data of a part are missing or have another shape.
        """
        named = self._for_parts(data, "data")
        for (name, value), size in zip(named.items(), self.data_sizes, strict=True):
            if tuple(value.shape[1:]) != size:
                want = ", ".join(map(str, size))
                raise ValueError(f"{type(self).__name__}: data of part {name!r} must be (B, {want}), got {tuple(value.shape)}")
        return torch.cat([_flat(value) for value in named.values()], dim=1)

    def sigma(self, sigmas: Mapping[Any, Tensor | float] | Sequence[Tensor | float]) -> Tensor:
        """Standard deviation of every entry of the data, (1, m) float64, for a Gaussian likelihood.

        Args:
            sigmas: Of each part, in the order of the parts or by name: a number, or a tensor that broadcasts to its data. For
                complex data, that of the real and of the imaginary part.

        Raises:
            ValueError: One is missing, not positive and finite, or does not fit its data.
        """
        named = self._for_parts(sigmas, "sigma")
        pieces = []
        for (name, value), size, is_complex in zip(named.items(), self.data_sizes, self._complex, strict=True):
            value = torch.as_tensor(value, dtype=torch.float64)
            if not (torch.isfinite(value).all() and (value > 0).all()):
                raise ValueError(f"{type(self).__name__}: sigma of part {name!r} must be positive and finite")
            try:
                value = value.expand(1, *size)
            except RuntimeError as error:
                raise ValueError(
                    f"{type(self).__name__}: sigma of part {name!r}, {tuple(value.shape)}, does not broadcast to {size}"
                ) from error
            pieces.append((value[..., None].expand(*value.shape, 2) if is_complex else value).reshape(1, -1))
        return torch.cat(pieces, dim=1)

    def _for_parts(self, values: Mapping[Any, Any] | Sequence[Any], what: str) -> dict[Hashable, Any]:
        """``values`` in the order of the parts."""
        if isinstance(values, Mapping):
            if set(values) != set(self.names):
                raise ValueError(f"{type(self).__name__}: {what} must have the parts {self.names}, got {tuple(values)}")
            return {name: values[name] for name in self.names}
        if len(values) != len(self.names):
            raise ValueError(f"{type(self).__name__}: {what} must be of {len(self.names)} parts, got {len(values)}")
        return dict(zip(self.names, values, strict=True))


class LinearStack(Stack, Linear):
    """A :class:`Stack` of linear operators; made by calling that."""

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """(B, m) -> (B, *shape), the sum of the adjoints."""
        pieces = self.split(y).values()
        return torch.stack([part.A_adjoint(v, **parameters) for part, v in zip(self.parts, pieces, strict=True)]).sum(0)

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^T A x, the sum of those of the parts, each with its own short cut."""
        return torch.stack([part.A_adjoint_A(x, **parameters) for part in self.parts]).sum(0)


Stack._linear = LinearStack


class Offset(_Combination):
    r"""An operator with a known offset of its data, :math:`y = A(x) + b`: a bias, or a climatology where x is an anomaly.

    It is affine, so a ``Physics`` and no ``LinearPhysics``. Data from which b was taken beforehand, with the operator as it
    was, are the same likelihood and keep what only linear operators have, such as a closed-form posterior.

    Args:
        operator: A.
        offset: b, broadcasts to the data of A.

    Raises:
        TypeError: ``operator`` is not a deepinv Physics.
        ValueError: b is not finite.
    """

    offset: Tensor

    def __init__(self, operator: Physics, offset: Tensor | float) -> None:
        _check_physics("Offset", {0: operator})
        is_complex = torch.is_complex(torch.as_tensor(offset))
        offset = torch.as_tensor(offset, dtype=torch.complex128 if is_complex else torch.float64)
        if not torch.isfinite(offset).all():
            raise ValueError("Offset: offset must be finite")
        super().__init__()
        self._keep([operator], getattr(operator, "img_size", None))
        self.register_buffer("offset", offset.clone())

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A(x) + b."""
        return self._moved(self.parts[0].A(x, **parameters))

    def linear_inside(self) -> Halves | None:
        """See `Compose.linear_inside`."""
        part = self.parts[0]
        if isinstance(part, LinearPhysics):
            return _After(self._moved), part
        halves = _halves(part)
        return None if halves is None else (Compose(_After(self._moved), halves[0]), halves[1])

    def _moved(self, y: Tensor) -> Tensor:
        return y + self.offset.to(y)


def _named(operators: Physics | Mapping[Any, Physics] | Sequence[Physics]) -> dict[Hashable, Physics]:
    if isinstance(operators, Physics):
        return {0: operators}
    return dict(operators) if isinstance(operators, Mapping) else dict(enumerate(operators))


def _all_linear(operators: Iterable[Physics]) -> bool:
    operators = list(operators)
    return bool(operators) and all(isinstance(part, LinearPhysics) for part in operators)


def _check_physics(owner: str, named: Mapping[Any, Any]) -> None:
    if not named:
        raise ValueError(f"{owner}: wanted one operator at least, got none")
    for name, part in named.items():
        if not isinstance(part, Physics):
            raise TypeError(f"{owner}: part {name!r} is a {type(part).__name__}; wanted a deepinv Physics")


def _flat(y: Tensor) -> Tensor:
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


def _probe(owner: str, name: Hashable, part: Physics, shape: tuple[int, ...]) -> Tensor:
    """What a part gives for a field of zeros, for its shape and whether it is complex."""
    buffer = next(part.buffers(), torch.zeros(()))
    errors = []
    # parts of others may know one precision only
    for dtype in (torch.float32, torch.float64):
        try:
            with torch.no_grad():
                out = part.A(torch.zeros(1, *shape, dtype=dtype, device=buffer.device))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            errors.append(error)
            continue
        if isinstance(out, Tensor):
            return out
        raise TypeError(f"{owner}: part {name!r} gives a {type(out).__name__}; wanted a tensor")
    raise ValueError(f"{owner}: part {name!r} does not take a field of shape {shape}: {errors[0]}") from errors[0]
