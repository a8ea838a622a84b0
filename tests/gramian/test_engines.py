"""Every engine finds what brute force finds, on whatever people build: the Gramian, the weights, each gradient."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import cograd
from cograd.errors import PassError, WeightingError
from cograd.gramian import At, Layerwise, Rows

ENGINES = {"rows": Rows(), "layerwise": Layerwise(), "automatic": None}
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass
class Case:
    """Losses, and the module whose parameters they reach; ``more`` are leaves outside of it."""

    module: nn.Module
    losses: dict[str, Tensor]
    more: list[Tensor] = field(default_factory=list)

    @property
    def leaves(self):
        return [p for p in self.module.parameters() if p.requires_grad] + self.more


def of(**modules):
    return nn.ModuleDict(modules)


def spread_out(y, n=3):
    """Losses that pull one output in several directions."""
    flat = y.reshape(len(y), -1)
    weights = torch.linspace(-1, 1, flat[0].numel(), dtype=y.dtype)
    return {
        "near": (flat - 1).square().mean(),
        "wave": (flat * weights).sin().sum(),
        "size": flat.abs().add(0.1).log().mean(),
    } | {f"more{i}": (flat * weights.roll(i)).tanh().mean() for i in range(n - 3)}


CASES = {}


def case(build):
    CASES[build.__name__] = build
    return build


# -- layers ----------------------------------------------------------------------------------------------------------


def through(net, *size):
    return Case(net, spread_out(net(torch.randn(*size))))


@case
def mlp():
    return through(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)), 5, 4)


@case
def mlp_with_heads():
    m = of(trunk=nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU()), a=nn.Linear(12, 2))
    m["b"] = nn.Linear(12, 3)
    z = m["trunk"](torch.randn(6, 4))
    return Case(m, {"a": m["a"](z).square().mean(), "b": F.cross_entropy(m["b"](z), torch.arange(6) % 3)})


@case
def mlp_of_five_losses():
    net = nn.Sequential(nn.Linear(4, 10), nn.GELU(), nn.Linear(10, 6))
    return Case(net, spread_out(net(torch.randn(5, 4)), 5))


@case
def rows_of_three_dimensions():
    return through(nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 5)), 2, 3, 4)


@case
def many_rows():
    return through(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), 40, 3)


@case
def one_row_without_a_batch():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return Case(net, spread_out(net(torch.randn(4))[None]))


@case
def no_bias():
    return through(nn.Sequential(nn.Linear(4, 16, bias=False), nn.Tanh(), nn.Linear(16, 3, bias=False)), 5, 4)


class Times(nn.Module):
    """``x @ w``, with the weight the way it is."""

    def __init__(self, i, o):
        super().__init__()
        self.w = nn.Parameter(torch.randn(i, o) / i)

    def forward(self, x):
        return x @ self.w


@case
def weight_not_transposed():
    return through(nn.Sequential(Times(4, 16), nn.Tanh(), Times(16, 3)), 5, 4)


@case
def weight_not_transposed_in_three_dimensions():
    return through(nn.Sequential(Times(4, 16), nn.Tanh(), Times(16, 3)), 2, 3, 4)


@case
def weight_from_the_left():
    net = Times(4, 4)
    return Case(net, spread_out(net.w @ torch.randn(4, 5) + net.w @ net.w @ torch.randn(4, 5)))


@case
def scaled_addmm():
    net = nn.Linear(6, 8)
    return Case(net, spread_out(torch.addmm(net.bias, torch.randn(3, 6), net.weight.T, beta=2.0, alpha=0.5)))


@case
def addmm_with_a_bias_of_odd_shape():
    net = Times(6, 8)
    net.b = nn.Parameter(torch.randn(3, 8))
    net.c = nn.Parameter(torch.randn(3, 1))
    net.d = nn.Parameter(torch.randn(8, 3))
    x = torch.randn(3, 6)
    return Case(net, spread_out(torch.addmm(net.b, x, net.w) * torch.addmm(net.c, x, net.w) + net.d.T))


@case
def addmm_with_a_transposed_bias():
    net = Times(6, 3)
    net.b = nn.Parameter(torch.randn(3, 3))
    return Case(net, spread_out(torch.addmm(net.b.T, torch.randn(3, 6), net.w)))


@case
def bias_of_one():
    net = Times(6, 8)
    net.b = nn.Parameter(torch.randn(1))
    return Case(net, spread_out(torch.addmm(net.b, torch.randn(3, 6), net.w)))


@case
def one_output():
    return through(nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1)), 5, 4)


@case
def batch_of_one():
    return through(nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3)), 1, 4)


@case
def conv1d():
    return through(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 3, stride=2)), 2, 2, 9)


@case
def conv2d():
    return through(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3)), 2, 2, 6, 6)


@case
def conv3d():
    return through(nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Conv3d(2, 2, 2)), 2, 1, 4, 4, 4)


@case
def transposed_conv():
    net = nn.Sequential(nn.ConvTranspose1d(2, 3, 3), nn.ReLU(), nn.Unflatten(2, (3, 3)), nn.ConvTranspose2d(3, 2, 2))
    return through(net, 2, 2, 7)


@case
def grouped_and_depthwise_conv():
    return through(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2)), 2, 4, 5, 5)


@case
def convolutions_and_a_wide_head():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 32), nn.ReLU(), nn.Linear(32, 3))
    return through(net, 4, 1, 5, 5)


@case
def norms():
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.GroupNorm(2, 8), nn.Linear(8, 3))
    return through(net, 5, 4)


@case
def batch_norm():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8)
    )
    return through(net, 4, 1, 5, 5)


@case
def batch_norm_in_eval():
    return through(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval(), 5, 4)


@case
def prelu_and_weight_norm():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.PReLU(), nn.Linear(8, 3))
    return through(net, 5, 4)


@case
def bilinear():
    net = nn.Bilinear(3, 4, 5)
    return Case(net, spread_out(net(torch.randn(6, 3), torch.randn(6, 4))))


WORDS = torch.tensor([[1, 0, 3, 3], [2, 1, 1, 0]])


def words(**options):
    net = nn.Sequential(nn.Embedding(50, 6, **options), nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3))
    return Case(net, spread_out(net(WORDS)))


@case
def embedding():
    return words()


@case
def embedding_with_padding():
    return words(padding_idx=0)


@case
def embedding_with_sparse_gradients():
    return words(sparse=True)


@case
def embedding_with_sparse_gradients_and_padding():
    return words(sparse=True, padding_idx=-49)


@case
def embedding_scaled_by_frequency():
    return words(scale_grad_by_freq=True)


@case
def embedding_with_max_norm():
    return words(max_norm=1.0)


@case
def embedding_bag():
    net = nn.EmbeddingBag(9, 6)
    return Case(net, spread_out(net(WORDS)))


@case
def embedding_used_with_and_without_padding():
    net = nn.Embedding(9, 6)
    padded = F.embedding(WORDS, net.weight, padding_idx=1)
    return Case(net, spread_out(padded + net(WORDS).roll(1, 1)))


@case
def embedding_used_densely_and_sparsely():
    net = nn.Embedding(9, 6)
    return Case(net, spread_out(F.embedding(WORDS, net.weight, sparse=True) * net(WORDS.flip(1))))


@case
def embedding_reused_as_output_projection():
    table, inner = nn.Embedding(9, 6), nn.Linear(6, 6)
    return Case(of(table=table, inner=inner), spread_out(inner(table(WORDS)).tanh() @ table.weight.T))


class Attends(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@case
def self_attention():
    return through(Attends(), 2, 3, 8)


@case
def attention_with_extra_keys():
    return through(Attends(add_bias_kv=True), 2, 3, 8)


@case
def cross_attention():
    net = nn.MultiheadAttention(8, 2, kdim=5, vdim=6)
    return Case(net, spread_out(net(torch.randn(3, 2, 8), torch.randn(4, 2, 5), torch.randn(4, 2, 6))[0]))


@case
def transformer_encoder_layer():
    return through(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True), 2, 3, 8)


@case
def transformer_decoder_layer():
    net = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0)
    return Case(net, spread_out(net(torch.randn(3, 2, 8), torch.randn(4, 2, 8))))


@case
def lstm():
    net = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    return Case(net, spread_out(net(torch.randn(4, 2, 3))[0]))


@case
def gru():
    net = nn.GRU(3, 5, batch_first=True)
    return Case(net, spread_out(net(torch.randn(2, 4, 3))[1][0]))


@case
def lstm_cell_step_by_step():
    net = nn.LSTMCell(3, 8)
    h, c = torch.zeros(2, 8), torch.zeros(2, 8)
    for x in torch.randn(4, 2, 3):
        h, c = net(x, (h, c))
    return Case(net, spread_out(h + c))


# -- ways to use them ------------------------------------------------------------------------------------------------


@case
def called_several_times():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))
    return Case(net, spread_out(net(torch.randn(3, 4)) * net(torch.randn(3, 4)) - net(torch.randn(1, 4))))


@case
def called_by_each_loss_for_itself():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))
    return Case(net, {name: net(torch.randn(3, 4)).square().mean() for name in "abc"})


@case
def the_same_layer_twice_in_sequence():
    layer = nn.Linear(8, 8)
    return through(nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(8, 3)), 3, 8)


@case
def one_weight_both_ways_round():
    net = nn.Linear(6, 8)
    return Case(net, spread_out(F.linear(net(torch.randn(3, 6)).tanh(), net.weight.T)))


@case
def part_of_a_weight():
    net = nn.Linear(6, 8)
    return Case(
        net, spread_out(F.linear(torch.randn(3, 6), net.weight[:4]) + F.linear(torch.randn(3, 6), net.weight)[:, 4:])
    )


@case
def in_place_activations():
    net = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.ELU(inplace=True), nn.Linear(16, 8)
    )
    z = net(torch.randn(5, 4))
    z += 1
    return Case(net, spread_out(z))


@case
def in_place_on_a_view():
    net = nn.Linear(4, 8)
    y = net(torch.randn(5, 4))
    y[:, :3].mul_(2)
    y[:, 3:].tanh_()
    return Case(net, spread_out(y))


@case
def residual():
    net = of(a=nn.Linear(8, 8), b=nn.Linear(8, 8), norm=nn.LayerNorm(8))
    x = net["a"](torch.randn(3, 8))
    x = x + net["b"](net["norm"](x)).relu()
    return Case(net, spread_out(x + net["b"](net["norm"](x)).relu()))


@case
def several_outputs_of_one_operation():
    net = nn.Linear(4, 12)
    a, b, c = net(torch.randn(5, 4)).chunk(3, dim=1)
    return Case(net, {"a": a.square().mean(), "b": (b * a).mean(), "c": (c - 1).square().mean()})


@case
def a_parameter_of_no_dimensions():
    net = nn.Linear(4, 8)
    net.scale = nn.Parameter(torch.tensor(1.5))
    return Case(net, spread_out(net(torch.randn(5, 4)) * net.scale.exp()))


@case
def a_spectral_layer_with_complex_weights():
    net = nn.Linear(8, 8)
    net.spectrum = nn.Parameter(torch.randn(5, dtype=torch.complex128))
    return Case(net, spread_out(torch.fft.irfft(torch.fft.rfft(net(torch.randn(3, 8))) * net.spectrum, n=8)))


@case
def channels_last():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 2)).to(memory_format=torch.channels_last)
    return Case(net, spread_out(net(torch.randn(2, 2, 5, 5).to(memory_format=torch.channels_last))))


@case
def an_input_that_requires_grad():
    net, x = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(3, 4, requires_grad=True)
    return Case(net, spread_out(net(x)), [x])


@case
def an_input_of_one_loss_that_requires_grad():
    net, x = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(3, 4, requires_grad=True)
    return Case(net, {"a": net(x).square().mean(), "b": net(x.detach()).sin().mean()}, [x])


# -- what losses share -----------------------------------------------------------------------------------------------


def tower():
    return of(low=nn.Linear(4, 12), high=nn.Linear(12, 12), a=nn.Linear(12, 2), b=nn.Linear(12, 2))


@case
def a_loss_that_taps_an_earlier_layer():
    m = tower()
    low = m["low"](torch.randn(3, 4)).tanh()
    high = m["high"](low).tanh()
    return Case(m, {"a": m["a"](high).square().mean(), "b": m["b"](low).sin().mean()})


@case
def a_loss_that_taps_an_earlier_layer_as_well_as_the_last():
    m = tower()
    low = m["low"](torch.randn(3, 4)).tanh()
    high = m["high"](low).tanh()
    return Case(m, {"a": m["a"](high + low).square().mean(), "b": m["b"](high).sin().mean()})


@case
def an_l2_term_on_one_trunk_parameter():
    m = tower()
    high = m["high"](m["low"](torch.randn(3, 4)).tanh()).tanh()
    decay = m["low"].weight.square().sum()
    return Case(m, {"a": m["a"](high).square().mean(), "b": m["b"](high).sin().mean() + 0.1 * decay})


@case
def an_l2_loss_of_everything():
    m = tower()
    high = m["high"](m["low"](torch.randn(3, 4)).tanh()).tanh()
    decay = sum(p.square().sum() for p in m.parameters())
    return Case(m, {"a": m["a"](high).square().mean(), "b": m["b"](high).sin().mean(), "decay": decay})


@case
def a_loss_that_is_part_of_another():
    m = tower()
    high = m["high"](m["low"](torch.randn(3, 4)).tanh()).tanh()
    part = m["a"](high).square().mean()
    return Case(m, {"part": part, "all": part + m["b"](high).sin().mean()})


@case
def a_loss_that_is_part_of_two_others():
    m = tower()
    high = m["high"](m["low"](torch.randn(3, 4)).tanh()).tanh()
    part = m["a"](high).square().mean()
    return Case(m, {"all": part + m["b"](high).sin().mean(), "part": part, "twice": part * m["b"](high).cos().mean()})


@case
def one_tensor_as_two_losses():
    net = nn.Linear(6, 8)
    loss = net(torch.randn(3, 6)).square().mean()
    return Case(net, {"a": loss, "again": loss, "other": net(torch.randn(3, 6)).mean()})


@case
def losses_that_are_outputs_of_one_operation():
    net = nn.Linear(6, 3)
    a, b, c = net(torch.randn(6)).unbind()
    return Case(net, {"a": a, "b": b, "c": c})


@case
def a_loss_that_is_a_parameter():
    net = nn.Linear(4, 8)
    net.size = nn.Parameter(torch.tensor(0.7))
    y = net(torch.randn(5, 4)) * net.size
    return Case(net, {"fit": (y - 1).square().mean(), "size": net.size})


@case
def a_module_of_two_of_three_losses():
    m = tower()
    low = m["low"](torch.randn(3, 4)).tanh()
    high = m["high"](low).tanh()
    return Case(m, {"a": m["a"](high).square().mean(), "b": high.sin().mean(), "c": m["b"](low).cos().mean()})


@case
def two_encoders_shared_by_different_pairs():
    m = of(left=nn.Linear(4, 10), right=nn.Linear(4, 10), only=nn.Linear(10, 1))
    left, right = m["left"](torch.randn(3, 4)).tanh(), m["right"](torch.randn(3, 4)).tanh()
    return Case(m, {"a": m["only"](left).square().mean(), "b": (left * right).mean(), "c": (right - 1).square().mean()})


@case
def two_components():
    m = of(left=nn.Linear(4, 10), right=nn.Linear(4, 10))
    left, right = m["left"](torch.randn(3, 4)), m["right"](torch.randn(3, 4))
    return Case(
        m, {"a": left.sin().mean(), "b": right.cos().mean(), "c": left.square().mean(), "d": right.exp().mean()}
    )


@case
def a_loss_that_shares_nothing():
    m = of(left=nn.Linear(4, 10), right=nn.Linear(4, 10))
    left = m["left"](torch.randn(3, 4))
    return Case(m, {"a": left.sin().mean(), "alone": m["right"](torch.randn(3, 4)).exp().mean(), "b": left.mean()})


@case
def frozen_parameters():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    net[0].weight.requires_grad = net[2].bias.requires_grad = False
    net[4].requires_grad_(False)
    return through(net, 5, 4)


@case
def a_loss_with_a_gradient_of_zero():
    net = nn.Linear(4, 16)
    y = net(torch.randn(5, 4))
    return Case(net, {"a": y.square().mean(), "nothing": 0 * y.sum(), "b": y.mean()})


# -- custom Functions, hooks, checkpoints ----------------------------------------------------------------------------


class Scaled(torch.autograd.Function):
    """x * s, written by hand."""

    @staticmethod
    def forward(ctx, x, s):
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * s, (g * x).sum(0)


class Curious(torch.autograd.Function):
    """Reads a number in backward, and is not linear in its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g / (1 + g.norm().item())


class Cut(torch.autograd.Function):
    """Passes no gradient to its first input."""

    @staticmethod
    def forward(ctx, x, y):
        return x + y

    @staticmethod
    def backward(ctx, g):
        return None, g


@case
def custom_function():
    m = of(low=nn.Linear(4, 8), high=nn.Linear(8, 8))
    m["low"].s = nn.Parameter(torch.randn(8))
    return Case(m, spread_out(m["high"](Scaled.apply(m["low"](torch.randn(5, 4)), m["low"].s))))


@case
def custom_function_that_reads_a_number():
    m = of(low=nn.Linear(4, 8), high=nn.Linear(8, 8))
    return Case(m, spread_out(m["high"](Curious.apply(m["low"](torch.randn(5, 4))))))


@case
def custom_function_under_a_loss_that_taps_below_it():
    m = tower()
    low = m["low"](torch.randn(3, 4)).tanh()
    high = m["high"](Curious.apply(low)).tanh()
    return Case(m, {"a": m["a"](high + low).square().mean(), "b": m["b"](high).sin().mean()})


@case
def custom_function_that_passes_nothing():
    m = of(low=nn.Linear(4, 8), side=nn.Linear(4, 8))
    x = torch.randn(5, 4)
    return Case(m, spread_out(Cut.apply(m["low"](x), m["side"](x)) + m["low"](x)))


@case
def hook_on_a_parameter():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    net[0].weight.register_hook(lambda g: g.clamp(-0.01, 0.01))
    net[2].bias.register_hook(lambda g: 2 * g)
    return through(net, 5, 4)


@case
def hook_on_an_intermediate():
    net, head = nn.Linear(4, 16), nn.Linear(16, 3)
    z = net(torch.randn(5, 4))
    z.register_hook(lambda g: g * 3)
    return Case(of(net=net, head=head), spread_out(head(z.tanh())))


@case
def hook_that_reads_a_number():
    net, head = nn.Linear(4, 16), nn.Linear(16, 3)
    z = net(torch.randn(5, 4))
    z.register_hook(lambda g: g / (1 + g.abs().max().item()))
    return Case(of(net=net, head=head), spread_out(head(z.tanh())))


@case
def hooks_of_modules():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    net[2].register_full_backward_hook(lambda m, grad_in, grad_out: (grad_in[0] * 2,))
    net[1].register_full_backward_pre_hook(lambda m, grad_out: (grad_out[0] * 3,))
    return through(net, 5, 4)


@case
def checkpointed():
    net, head = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8)), nn.Linear(8, 3)
    z = checkpoint(net, torch.randn(5, 4), use_reentrant=False)
    return Case(of(net=net, head=head), spread_out(head(z)))


@case
def checkpointed_with_dropout():
    net, head = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 8)), nn.Linear(8, 3)
    z = checkpoint(net, torch.randn(5, 4), use_reentrant=False)
    return Case(of(net=net, head=head), spread_out(head(z)))


@case
def checkpointed_with_batch_norm():
    net, head = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh()), nn.Linear(16, 3)
    z = checkpoint(net, torch.randn(5, 4), use_reentrant=False)
    return Case(of(net=net, head=head), spread_out(head(z)))


@case
def checkpointed_with_a_tap_below():
    m = tower()
    low = m["low"](torch.randn(3, 4)).tanh()
    high = checkpoint(lambda z: m["high"](z).tanh(), low, use_reentrant=False)
    return Case(m, {"a": m["a"](high + low).square().mean(), "b": m["b"](high).sin().mean()})


@case
def saved_on_the_cpu():
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8))
    with torch.autograd.graph.save_on_cpu():
        y = net(torch.randn(5, 4))
    return Case(net, spread_out(y))


# -- the comparison --------------------------------------------------------------------------------------------------


def built(name):
    torch.manual_seed(3)
    return CASES[name]()


@every_engine
@pytest.mark.parametrize("name", CASES)
def test_engine_finds_what_brute_force_finds(name, engine, rule, reference, agrees):
    case, twin = built(name), built(name)
    expected = reference(twin.losses, twin.leaves)
    report = cograd.backward(case.losses, weighting=rule, gramian=engine)
    agrees(report, case.leaves, expected, twin.leaves)


@every_engine
def test_the_users_weights_scale_the_losses_before_the_rule(engine, rule, reference, agrees):
    case, twin, fixed = built("mlp"), built("mlp"), {"near": 0.1, "size": -3.0}
    expected = reference(twin.losses, twin.leaves, fixed=fixed)
    report = cograd.backward(case.losses, weights=fixed, weighting=rule, gramian=engine)
    agrees(report, case.leaves, expected, twin.leaves)
    assert report.gramian.conflicts == tuple(
        (a, b)
        for i, a in enumerate(expected.names)
        for j, b in enumerate(expected.names)
        if i < j and expected.matrix[i, j] < 0
    )


@every_engine
def test_absent_losses_take_no_part(engine, rule, reference, agrees):
    case, twin = built("mlp_of_five_losses"), built("mlp_of_five_losses")
    for name in ("near", "more1", "size"):
        del twin.losses[name]
    absent = {"near": None, "more1": lambda: None}
    expected = reference(twin.losses, twin.leaves)
    report = cograd.backward(case.losses | absent, weights={"size": 0.0}, weighting=rule, gramian=engine)
    agrees(report, case.leaves, expected, twin.leaves)


@every_engine
def test_lazy_losses_are_evaluated_once(engine, rule, reference, agrees):
    case, twin, calls = built("mlp"), built("mlp"), []

    def lazy(name):
        return lambda: calls.append(name) or case.losses[name]

    expected = reference(twin.losses, twin.leaves)
    report = cograd.backward({name: lazy(name) for name in case.losses}, weighting=rule, gramian=engine)
    agrees(report, case.leaves, expected, twin.leaves)
    assert calls == list(case.losses)


# -- routes ----------------------------------------------------------------------------------------------------------


def adversaries():
    """A generator and a discriminator, an encoder that both use, and losses for all of them."""
    torch.manual_seed(3)
    m = of(enc=nn.Linear(4, 8), gen=nn.Linear(8, 6), disc=nn.Linear(6, 2))
    z = m["enc"](torch.randn(5, 4)).tanh()
    fake = m["gen"](z).tanh()
    score = m["disc"](fake)
    losses = {
        "disc": score.square().mean(),
        "gen": (score - 1).square().mean(),
        "match": (fake - 1).abs().mean(),
        "size": (score * 0.3).sin().mean() + z.mean(),
    }
    return m, losses


ROUTES = {
    "adversarial": {"disc": "disc", "gen": "gen", "match": ["gen", "enc"], "size": "enc"},
    "critics": {"disc": "disc", "size": "disc", "gen": "gen", "match": "gen"},
    "one is free": {"disc": "disc", "gen": ["gen", "enc"], "match": ["gen", "enc"]},
    "nothing is blocked": {"match": ["gen", "enc"]},
    "no two share": {"disc": "disc", "gen": "gen", "match": "enc", "size": "disc"},
}


@every_engine
@pytest.mark.parametrize("trains", ROUTES.values(), ids=ROUTES)
def test_a_loss_is_compared_only_on_what_it_trains(trains, engine, rule, reference, agrees):
    (m, losses), (twin, theirs) = adversaries(), adversaries()
    owner = {p: name for name, model in twin.items() for p in model.parameters()}

    def trained(loss, p):
        return loss not in trains or owner[p] in trains[loss] or owner[p] == trains[loss]

    expected = reference(theirs, list(owner), trained)
    report = cograd.backward(losses, models=dict(m.items()), trains=trains, weighting=rule, gramian=engine)
    agrees(report, list(m.parameters()), expected, list(owner))


@every_engine
def test_grad_returns_what_backward_adds(engine, rule, reference):
    (m, losses), (twin, theirs) = adversaries(), adversaries()
    found = cograd.grad(losses, models=dict(m.items()), weighting=rule, gramian=engine)
    expected = reference(theirs, list(twin.parameters())).gradients
    assert all(p.grad is None for p in m.parameters())
    for name, model in twin.items():
        for key, p in model.named_parameters():
            torch.testing.assert_close(found[name][key], expected[p], rtol=1e-10, atol=1e-12)


# -- the graph afterwards --------------------------------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize("name", ["mlp", "norms", "embedding", "residual", "a_loss_that_is_part_of_another"])
def test_a_retained_graph_serves_another_backward(name, engine, rule, reference, agrees):
    case, twin = built(name), built(name)
    expected = reference(twin.losses, twin.leaves)
    first = cograd.backward(case.losses, weighting=rule, gramian=engine, retain_graph=True)
    agrees(first, case.leaves, expected, twin.leaves)
    for p in case.leaves:
        p.grad = None
    again = cograd.backward(case.losses, weighting=rule, gramian=engine, retain_graph=True)
    agrees(again, case.leaves, expected, twin.leaves)
    for each in (case, twin):
        for p in each.leaves:
            p.grad = None
        sum(each.losses.values()).backward()
    for p, q in zip(case.leaves, twin.leaves, strict=True):
        assert p.grad.equal(q.grad)


@every_engine
def test_differentiable_gradients_are_refused(engine, rule):
    case = built("mlp")
    with pytest.raises(PassError, match="create_graph"):
        cograd.backward(case.losses, weighting=rule, gramian=engine, create_graph=True)
    assert all(p.grad is None for p in case.leaves)


@every_engine
def test_an_input_changed_in_place_is_noticed_as_in_any_backward(engine, rule):
    net, x = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)), torch.randn(3, 4)
    losses = spread_out(net(x))
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cograd.backward(losses, weighting=rule, gramian=engine)
    assert all(p.grad is None for p in net.parameters())


# -- where the gradients go ------------------------------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize(
    "name",
    ["mlp_with_heads", "embedding", "embedding_with_sparse_gradients", "channels_last", "an_input_that_requires_grad"],
)
def test_gradients_are_added_to_those_that_are_there(name, engine, rule, reference, agrees):
    case, twin = built(name), built(name)
    expected = reference(twin.losses, twin.leaves)
    for p, q in zip(case.leaves, twin.leaves, strict=True):
        p.grad = torch.full_like(p, 0.5)
        expected.gradients[q] = expected.gradients[q] + 0.5
    held = {p: p.grad for p in case.leaves}
    report = cograd.backward(case.losses, weighting=rule, gramian=engine)
    agrees(report, case.leaves, expected, twin.leaves)
    assert all(p.grad is g for p, g in held.items())


@every_engine
def test_sparse_gradients_accumulate(engine, rule, reference):
    case, twin = built("embedding_with_sparse_gradients"), built("embedding_with_sparse_gradients")
    expected = reference(twin.losses, twin.leaves)
    for _ in range(2):
        cograd.backward(case.losses, weighting=rule, gramian=engine, retain_graph=True)
    table = case.module[0].weight
    assert table.grad.is_sparse
    torch.testing.assert_close(table.grad.to_dense(), 2 * expected.gradients[twin.module[0].weight])


class Shared(torch.autograd.Function):
    """Gives both inputs the same tensor, which it keeps."""

    @staticmethod
    def forward(ctx, x, y, kept):
        ctx.kept = kept
        return x + y

    @staticmethod
    def backward(ctx, g):
        return ctx.kept, ctx.kept, None


@every_engine
def test_each_gradient_owns_its_memory(engine, rule):
    torch.manual_seed(3)
    net, kept = nn.Linear(4, 8), torch.ones(8)
    net.p, net.q, net.r, net.s = (nn.Parameter(torch.randn(8)) for _ in range(4))
    net.t, net.u = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.2))
    alone = Shared.apply(net.r, net.s, kept)
    losses = spread_out(net(torch.randn(5, 4)) + net.p + net.q) | {"alone": alone.sum() + net.t + net.u}
    cograd.backward(losses, weighting=rule, gramian=engine)
    before = {p: p.grad.clone() for p in net.parameters()}
    for p in net.parameters():
        p.grad.mul_(7)
        assert kept.equal(torch.ones(8))
        for q, value in before.items():
            assert q.grad.equal(7 * value if q is p else value)
        p.grad.copy_(before[p])


@every_engine
def test_a_loss_that_is_a_view_of_a_parameter_gets_a_gradient_of_its_own(engine, rule):
    a, b, c = (torch.randn((), requires_grad=True) for _ in range(3))
    cograd.backward({"a": a, "b": 1 * b, "both": a + c, "c": 1 * c}, weighting=rule, gramian=engine)
    for p in (a, b, c):
        p.grad.zero_()
    x = torch.randn((), requires_grad=True)
    cograd.backward({"x": x, "again": 1 * x}, weighting=cograd.weighting.UPGrad(), gramian=engine)
    assert float(x.grad) == pytest.approx(2.0)


@every_engine
def test_gradients_are_laid_out_like_their_parameters(engine, rule):
    case = built("channels_last")
    case.module.register_parameter("turned", None)
    w = nn.Parameter(torch.randn(5, 8).T)
    losses = spread_out(case.module(torch.randn(2, 2, 5, 5)).flatten(1)[:, :8] @ w)
    cograd.backward(losses, weighting=rule, gramian=engine)
    for p in [*case.module.parameters(), w]:
        assert p.grad.stride() == p.stride()


@every_engine
def test_hooks_see_a_gradient_as_in_any_backward(engine, rule, reference):
    """A tensor hook changes each loss's gradient; one for the finished gradient runs once."""
    case, twin, seen = built("mlp"), built("mlp"), []
    case.module[0].weight.register_hook(lambda g: 2 * g)
    case.module[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    twin.module[0].weight.register_hook(lambda g: 2 * g)
    expected = reference(twin.losses, twin.leaves)
    cograd.backward(case.losses, weighting=rule, gramian=engine)
    (found,) = seen
    torch.testing.assert_close(found, expected.gradients[twin.module[0].weight], rtol=1e-10, atol=1e-12)


# -- buffers and the random state ------------------------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize("name", ["checkpointed_with_batch_norm", "batch_norm"])
def test_running_statistics_move_as_in_one_plain_backward(name, engine, rule):
    case, twin, third = built(name), built(name), built(name)
    cograd.backward(case.losses, models={"net": case.module}, weighting=rule, gramian=engine)
    cograd.grad(third.losses, models={"net": third.module}, weighting=rule, gramian=engine)
    sum(twin.losses.values()).backward()
    for a, b, c in zip(case.module.buffers(), twin.module.buffers(), third.module.buffers(), strict=True):
        assert a.equal(b)
        assert c.equal(b)


@pytest.mark.parametrize("weighting", [None, cograd.weighting.UPGrad()])
def test_running_statistics_move_once_where_routes_need_several_passes(weighting):
    def pair():
        torch.manual_seed(3)
        gen = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        disc = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
        fake = checkpoint(gen, torch.randn(5, 4), use_reentrant=False)
        score = checkpoint(disc, fake, use_reentrant=False)
        return {"gen": gen, "disc": disc}, {"disc": score.square().mean(), "gen": (score - 1).square().mean()}

    (models, losses), (twins, theirs) = pair(), pair()
    trains = {"disc": "disc", "gen": "gen", "more": "gen"}
    losses["more"] = losses["gen"] * losses["disc"]
    report = cograd.backward(losses, models=models, trains=trains, weighting=weighting)
    sum(theirs.values()).backward()
    assert len(report.plan.passes) == 2
    for name, model in models.items():
        for a, b in zip(model.buffers(), twins[name].buffers(), strict=True):
            assert a.equal(b)


@every_engine
def test_the_random_state_moves_as_in_one_plain_backward(engine, rule):
    case = built("checkpointed_with_dropout")
    before = torch.get_rng_state()
    cograd.backward(case.losses, weighting=rule, gramian=engine)
    assert torch.get_rng_state().equal(before)


# -- lower precision -------------------------------------------------------------------------------------------------


NETS = {
    "linear": lambda: (nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 3)), torch.randn(6, 4)),
    "conv": lambda: (
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)),
        torch.randn(6, 2, 7),
    ),
    "norm": lambda: (nn.Sequential(nn.Linear(4, 24), nn.LayerNorm(24), nn.Linear(24, 3)), torch.randn(6, 4)),
    "words": lambda: (nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(32, 3)), WORDS),
}


def in_float32(net, x):
    return spread_out(net(x))


def under_autocast(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    return spread_out(y.float())


def in_bfloat16(net, x):
    net.bfloat16()
    return spread_out(net(x.bfloat16() if x.is_floating_point() else x).float())


@every_engine
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize(("precision", "rtol"), [(in_float32, 1e-4), (under_autocast, 1e-2), (in_bfloat16, 1e-2)])
def test_lower_precision(precision, rtol, net, engine, rule, reference, agrees):
    torch.set_default_dtype(torch.float32)
    one, x = net()
    twin = copy.deepcopy(one)
    losses, theirs = precision(one, x), precision(twin, x)
    expected = reference(theirs, list(twin.parameters()))
    report = cograd.backward(losses, weighting=rule, gramian=engine)
    agrees(report, list(one.parameters()), expected, list(twin.parameters()), rtol=rtol)
    for p in one.parameters():
        assert p.grad.dtype == p.dtype


@every_engine
def test_losses_of_half_precision_give_weights_of_full(engine):
    """Two parameters in bfloat16 with gradients of 1 and 3: nothing is rounded on the way to the weights."""
    x = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    report = cograd.backward(
        {"a": x[0] + x[1], "b": 3 * x[0]}, weighting=lambda g: 1 / g.diagonal().sqrt(), gramian=engine
    )
    assert report.gramian.matrix.equal(torch.tensor([[2.0, 3.0], [3.0, 9.0]]))
    assert report.weights["a"] == pytest.approx(2**-0.5, abs=1e-15)
    assert x.grad.dtype == torch.bfloat16


# -- compiled modules ------------------------------------------------------------------------------------------------


@every_engine
def test_a_compiled_trunk(engine, rule, reference, agrees):
    torch.compiler.reset()
    case, twin = built("mlp_with_heads"), built("mlp_with_heads")
    x = torch.randn(6, 4)
    for each, trunk in ((case, torch.compile(case.module["trunk"], backend="aot_eager")), (twin, twin.module["trunk"])):
        z = trunk(x)
        each.losses = {"a": each.module["a"](z).square().mean(), "b": each.module["b"](z).sin().mean()}
    expected = reference(twin.losses, twin.leaves)
    report = cograd.backward(case.losses, weighting=rule, gramian=engine)
    agrees(report, case.leaves, expected, twin.leaves)


# -- At --------------------------------------------------------------------------------------------------------------


def at_two_tensors():
    torch.manual_seed(3)
    m = of(left=nn.Linear(4, 6), right=nn.Linear(4, 6), a=nn.Linear(6, 2), b=nn.Linear(6, 2))
    x = torch.randn(5, 4)
    y, z = m["left"](x).tanh(), m["right"](x).tanh()
    return m, [y, z], {"a": m["a"](y + z).square().mean(), "b": m["b"](z).sin().mean(), "c": (y * z).mean()}


@pytest.mark.parametrize("fixed", [{}, {"a": 0.3, "c": -2.0}])
def test_at_compares_what_arrives_at_the_representation(fixed, rule):
    (m, found, losses), (twin, z, theirs) = at_two_tensors(), at_two_tensors()
    rows = [torch.autograd.grad(theirs[k], z, retain_graph=True, allow_unused=True) for k in theirs]
    flat = torch.stack([torch.cat([torch.zeros(30) if g is None else g.flatten() for g in row]) for row in rows])
    factors = torch.tensor([fixed.get(k, 1.0) for k in theirs])
    matrix = flat @ flat.T
    weights = rule(matrix * factors * factors[:, None]) * factors
    sum(w * theirs[k] for k, w in zip(theirs, weights.tolist(), strict=True)).backward()
    report = cograd.backward(losses, weights=fixed, weighting=rule, gramian=At(found))
    torch.testing.assert_close(report.gramian.matrix, matrix, rtol=1e-10, atol=0)
    torch.testing.assert_close(torch.tensor(list(report.weights.values())), weights, rtol=1e-10, atol=0)
    for name in ("left", "right"):
        for p, q in zip(m[name].parameters(), twin[name].parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-14)


def test_at_needs_a_representation_that_every_loss_uses(rule):
    m, (y, _), losses = at_two_tensors()
    with pytest.raises(WeightingError, match="'b' shares parameters"):
        cograd.backward(losses | {"d": m["left"].bias.sum()}, weighting=rule, gramian=At(y))
    assert all(p.grad is None for p in m.parameters())


def test_at_needs_tensors_with_a_graph(rule):
    with pytest.raises(WeightingError, match="tensors with a graph"):
        At(torch.zeros(3))
    with pytest.raises(WeightingError, match="tensors with a graph"):
        At([])


def test_at_a_name_is_for_a_joint(rule):
    case = built("mlp")
    with pytest.raises(WeightingError, match="only a Joint has"):
        cograd.backward(case.losses, weighting=rule, gramian=At("encoder"))


def test_at_is_refused_where_a_loss_must_not_train_what_it_reaches(rule):
    (m, losses), trains = adversaries(), ROUTES["adversarial"]
    z = torch.randn(3, requires_grad=True)
    with pytest.raises(WeightingError, match="At needs a graph"):
        cograd.backward(losses, models=dict(m.items()), trains=trains, weighting=rule, gramian=At(z))


# -- what there is to weigh ------------------------------------------------------------------------------------------


@every_engine
def test_nothing_shared_warns_and_leaves_plain_gradients(engine, rule):
    a, b = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.randn(5, 4)
    with pytest.warns(UserWarning, match="share no parameter") as caught:
        report = cograd.backward({"a": a(x).sin().sum(), "b": b(x).sum()}, weighting=rule, gramian=engine)
    assert caught[0].filename == __file__
    assert report.gramian is None
    assert report.weights == {"a": 1.0, "b": 1.0}
    expected = torch.autograd.grad(a(x).sin().sum(), a.weight)[0]
    assert a.weight.grad.equal(expected)


@every_engine
def test_a_single_loss_has_nothing_to_share_and_does_not_warn(engine, rule):
    net = nn.Linear(4, 3)
    report = cograd.backward({"only": net(torch.randn(5, 4)).sum()}, weighting=rule, gramian=engine)
    assert report.gramian is None
    assert net.bias.grad.equal(torch.full((3,), 5.0))


def test_gramian_without_such_a_rule_is_refused():
    case = built("mlp")
    for weighting in (None, cograd.weighting.Log()):
        with pytest.raises(WeightingError, match="no rule that looks at them"):
            cograd.backward(case.losses, weighting=weighting, gramian=Rows())
    with pytest.raises(WeightingError, match="gramian takes"):
        cograd.backward(case.losses, weighting=cograd.weighting.MGDA(), gramian=Rows)
