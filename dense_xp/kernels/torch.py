"""Kernels of torch, on any of its devices: its own fused and in-place operations."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import torch

from dense_xp.kernels import one_minus_power

Array: TypeAlias = Any

NAME = "torch"

# ------------------------------------------------------------------------------------- products


def product(A: Array, B: Array, out: Array) -> None:
    """Write A B."""
    torch.mm(A, B, out=out)


columns_product = product

# ------------------------------------------------------------------------------------- layers


def linear(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear`."""
    Z.add_(bias)


def linear_backward(grad: Array, Z: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear_backward`."""
    if grad is not Z:
        Z.copy_(grad)
    torch.sum(Z, 0, keepdim=True, out=grad_bias)


def relu(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu`."""
    Z.add_(bias).relu_()


def relu_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu_backward`."""
    torch.ops.aten.threshold_backward.grad_input(grad, Y, 0, grad_input=Y)
    torch.sum(Y, 0, keepdim=True, out=grad_bias)


def tanh(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.tanh`."""
    Z.add_(bias).tanh_()


def tanh_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.tanh_backward`; torch's own takes 1 - y², which cancels."""
    sums = 1.0 + Y
    Y.neg_().add_(1.0).mul_(sums).mul_(grad)
    torch.sum(Y, 0, keepdim=True, out=grad_bias)


def sigmoid(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.sigmoid`."""
    Z.add_(bias).sigmoid_()


def sigmoid_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.sigmoid_backward`."""
    torch.ops.aten.sigmoid_backward.grad_input(grad, Y, grad_input=Y)
    torch.sum(Y, 0, keepdim=True, out=grad_bias)


def dropout(X: Array, keep: Array, scale: float, out: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.dropout`."""
    torch.mul(X, scale, out=out).masked_fill_(~keep, 0.0)


def layer_norm(X: Array, gamma: Array, beta: Array, epsilon: float, normed: Array, inverse: Array, Y: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.layer_norm`, but `normed` is x - mean, which torch divides itself."""
    mean = torch.empty_like(inverse)
    shape = X.shape[1:]
    torch.ops.aten.native_layer_norm.out(X, shape, gamma[0], beta[0], epsilon, out0=Y, out1=mean, out2=inverse)
    torch.sub(X, mean, out=normed)


def layer_norm_backward(
    grad: Array, gamma: Array, normed: Array, inverse: Array, grad_gamma: Array, grad_beta: Array, out: Array
) -> None:
    """As :func:`dense_xp.kernels.numpy.layer_norm_backward`."""
    torch.ops.aten.native_layer_norm_backward.out(
        grad, normed, grad.shape[1:], torch.zeros_like(inverse), inverse, gamma[0], gamma[0], [True, True, True],
        out0=out, out1=grad_gamma[0], out2=grad_beta[0],
    )  # fmt: skip


# ------------------------------------------------------------------------------------- losses


def softmax_cross_entropy(Z: Array, labels: Array, smoothing: float) -> Array:
    """As :func:`dense_xp.kernels.numpy.softmax_cross_entropy`; the loss stays on the device."""
    n, n_classes = Z.shape
    labels = labels.to(torch.int64)
    share = smoothing / n_classes
    log_p = torch.log_softmax(Z, 1)
    loss = torch.nn.functional.nll_loss(log_p, labels)
    if smoothing:
        loss = (1.0 - smoothing) * loss - share / n * log_p.sum()
    torch.softmax(Z, 1, out=Z)
    Z.scatter_add_(1, labels[:, None], Z.new_full((n, 1), smoothing - 1.0))
    if smoothing:
        Z.sub_(share)
    Z.mul_(1.0 / n)
    return loss


def squared_error(Y: Array, target: Array) -> Array:
    """As :func:`dense_xp.kernels.numpy.squared_error`; the loss stays on the device."""
    Y.sub_(target)
    loss = torch.square(Y).mean()
    Y.mul_(2.0 / Y.numel())
    return loss


# ------------------------------------------------------------------------------------- optimizers


def _decayed(param: Array, decay: float) -> None:
    if decay != 1.0:
        param.mul_(decay)


def sgd(param: Array, grad: Array, rate: float, decay: float) -> None:
    """As :func:`dense_xp.kernels.numpy.sgd`."""
    _decayed(param, decay)
    param.add_(grad, alpha=-rate)


def momentum(param: Array, grad: Array, velocity: Array, rate: float, decay: float, mu: float, nesterov: bool) -> None:
    """As :func:`dense_xp.kernels.numpy.momentum`."""
    velocity.mul_(mu).add_(grad)
    _decayed(param, decay)
    param.add_(torch.add(grad, velocity, alpha=mu) if nesterov else velocity, alpha=-rate)


def rmsprop(
    param: Array, grad: Array, mean_square: Array, rate: float, decay: float, rho: float, epsilon: float
) -> None:
    """As :func:`dense_xp.kernels.numpy.rmsprop`."""
    mean_square.mul_(rho).addcmul_(grad, grad, value=1.0 - rho)
    _decayed(param, decay)
    param.addcdiv_(grad, mean_square.sqrt().add_(epsilon), value=-rate)


def rmsprop_momentum(
    param: Array,
    grad: Array,
    mean_square: Array,
    velocity: Array,
    rate: float,
    decay: float,
    rho: float,
    epsilon: float,
    mu: float,
) -> None:
    """As :func:`dense_xp.kernels.numpy.rmsprop_momentum`."""
    mean_square.mul_(rho).addcmul_(grad, grad, value=1.0 - rho)
    velocity.mul_(mu).addcdiv_(grad, mean_square.sqrt().add_(epsilon))
    _decayed(param, decay)
    param.add_(velocity, alpha=-rate)


def adam(
    param: Array,
    grad: Array,
    mean: Array,
    mean_square: Array,
    rate: float,
    decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    steps: int,
) -> None:
    """As :func:`dense_xp.kernels.numpy.adam`: what ``torch.optim.Adam(fused=True)`` calls.

    Its own 1 - βᵗ suffers from cancellation. So it is called for step ∞, where both corrections are 1, and the
    corrections of this step go into the rate and into ε.
    """
    _decayed(param, decay)
    root = math.sqrt(one_minus_power(beta_2, steps))
    torch._fused_adam_(
        [param], [grad], [mean], [mean_square], [], [_endless(param.device)],
        lr=rate * root / one_minus_power(beta_1, steps), beta1=beta_1, beta2=beta_2, weight_decay=0.0,
        eps=epsilon * root, amsgrad=False, maximize=False,
    )  # fmt: skip


@functools.cache
def _endless(device: Any) -> Array:
    return torch.full((), 1e38, dtype=torch.float32, device=device)


def adagrad(param: Array, grad: Array, total: Array, rate: float, decay: float, epsilon: float) -> None:
    """As :func:`dense_xp.kernels.numpy.adagrad`."""
    total.addcmul_(grad, grad)
    _decayed(param, decay)
    param.addcdiv_(grad, total.sqrt().add_(epsilon), value=-rate)


def lion(param: Array, grad: Array, momentum: Array, rate: float, decay: float, beta_1: float, beta_2: float) -> None:
    """As :func:`dense_xp.kernels.numpy.lion`."""
    direction = torch.mul(momentum, beta_1).add_(grad, alpha=1.0 - beta_1).sign_()
    _decayed(param, decay)
    param.add_(direction, alpha=-rate)
    momentum.mul_(beta_2).add_(grad, alpha=1.0 - beta_2)


# ------------------------------------------------------------------------------------- clipping


def clip(grad: Array, limit: float) -> None:
    """As :func:`dense_xp.kernels.numpy.clip`."""
    grad.clamp_(-limit, limit)


def clip_norm(grads: list[Array], allowed: float) -> None:
    """As :func:`dense_xp.kernels.numpy.clip_norm`; nothing waits for the device."""
    wide = torch.float64  # in float32, squares of large numbers overflow
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad, dtype=wide) for grad in grads]))
    scale = (allowed / norm.clamp(min=allowed)).to(grads[0].dtype)
    for grad in grads:
        grad.mul_(scale)
