"""Adam, step by step, for methods that define their result by it."""

from dataclasses import dataclass, field

from eutectic.numerics.tensors import Tensor, torch


@dataclass
class Adam:
    """The values being optimised, and the moments of their gradient.

    Without weight decay or schedule, with betas 0.9 and 0.999 and eps 1e-8, as torch.optim.Adam has them by default.
    Source: Kingma and Ba, Adam, 2015, arXiv:1412.6980, Algorithm 1.

    Attributes:
        values: changed in place by `step`.
        rate: the learning rate.
    """

    values: Tensor
    rate: float
    _mean: Tensor = field(init=False, repr=False)
    _square: Tensor = field(init=False, repr=False)
    _steps: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._mean, self._square = torch.zeros_like(self.values), torch.zeros_like(self.values)

    @property
    def moments(self) -> tuple[Tensor, Tensor, int]:
        """The mean of the gradient and of its square so far, not corrected, and the number of steps."""
        return self._mean, self._square, self._steps

    def resume(self, mean: Tensor, square: Tensor, steps: int) -> None:
        """Goes on from moments that were read before."""
        self._mean, self._square, self._steps = mean, square, steps

    def step(self, gradient: Tensor) -> None:
        """Moves the values by one step against a gradient of their shape."""
        self._steps += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        below = (self._square / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
        self.values.addcdiv_(self._mean, below, value=-self.rate / (1 - 0.9**self._steps))
