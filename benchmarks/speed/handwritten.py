"""The plain step and the curve step of the paper, written by hand in PyTorch, without Keras: what ours is compared to.

    cd benchmarks && python -m speed.handwritten --network=vgg16 --curve

Makes some steps, which compile, then reads lines from its input, makes as many steps for each, and answers with their
seconds: so it takes turns with a program on another backend. `speed.py` starts it.
"""

import sys
import time

import torch
from absl import app, flags
from torch import nn
from torch.nn import functional

FLAGS = flags.FLAGS


def conv_block(inputs, filters, size=3, stride=1, batch_norm=False):
    layers = [nn.Conv2d(inputs, filters, size, stride, padding=size // 2)]
    return [*layers, *([nn.BatchNorm2d(filters)] if batch_norm else []), nn.ReLU()]


def vgg16():
    layers, channels = [], 3
    for filters, count in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3)):
        for _ in range(count):
            layers += conv_block(channels, filters)
            channels = filters
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def convfc():
    layers = []
    for inputs, filters in ((3, 32), (32, 64), (64, 128)):
        layers += [*conv_block(inputs, filters, 5), nn.MaxPool2d(3, 2)]
    layers += [nn.Flatten(), nn.Linear(1152, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10)]
    return nn.Sequential(*layers)


def small_cnn(width=16, batch_norm=False):
    layers, channels = [], 3
    for filters in (width, width, 2 * width, 2 * width):
        layers += conv_block(channels, filters, batch_norm=batch_norm)
        layers += [nn.MaxPool2d(2)] if filters == channels else []
        channels = filters
    layers += [nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * channels, 4 * width), nn.ReLU(), nn.Dropout(0.25)]
    return nn.Sequential(*layers, nn.Linear(4 * width, 10))


class Block(nn.Module):
    """A pre-activation block of convolutions `(filters, size, stride)`."""

    def __init__(self, inputs, plan, use_bias):
        super().__init__()
        widths = [inputs, *[filters for filters, _, _ in plan]]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(width, filters, size, stride, padding=size // 2, bias=use_bias)
            for width, (filters, size, stride) in zip(widths, plan)
        )
        stride = max(stride for _, _, stride in plan)
        is_alike = stride == 1 and inputs == widths[-1]
        self.shortcut = nn.Identity() if is_alike else nn.Conv2d(inputs, widths[-1], 1, stride, bias=use_bias)

    def forward(self, x):
        y = x
        for norm, conv in zip(self.norms, self.convs):
            y = conv(functional.relu(norm(y)))
        return y + self.shortcut(x)


def residual(stages, blocks, plan, use_bias):
    """Three stages of blocks, of which the second and third begin with a stride of 2."""
    layers, channels = [nn.Conv2d(3, 16, 3, padding=1, bias=use_bias)], 16
    for filters, first_stride in zip(stages, (1, 2, 2)):
        for index in range(blocks):
            layers.append(Block(channels, plan(filters, first_stride if index == 0 else 1), use_bias))
            channels = layers[-1].convs[-1].out_channels
    end = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers, *end)


def preresnet(depth):
    if depth >= 44:
        plan, blocks = lambda n, stride: [(n, 1, 1), (n, 3, stride), (4 * n, 1, 1)], (depth - 2) // 9
    else:
        plan, blocks = lambda n, stride: [(n, 3, stride), (n, 3, 1)], (depth - 2) // 6
    return residual((16, 32, 64), blocks, plan, use_bias=False)


def wrn28x10():
    return residual((160, 320, 640), 4, lambda n, stride: [(n, 3, 1), (n, 3, stride)], use_bias=True)


def make_network(name):
    makers = {"vgg16": vgg16, "convfc": convfc, "small_cnn": small_cnn, "wrn28x10": wrn28x10}
    makers["small_cnn_bn"] = lambda: small_cnn(batch_norm=True)
    return makers[name]() if name in makers else preresnet(int(name.removeprefix("preresnet")))


def make_step(network, curve, compiled, precision):
    """A function of (images, labels) that makes one step of SGD with momentum; on a Bezier curve of three bends."""
    bends = [{name: w.detach().clone() for name, w in network.named_parameters()} for _ in range(3)]
    for weight in bends[1].values():  # The ends are fixed.
        weight.requires_grad_()
    optimizer = torch.optim.SGD(bends[1].values() if curve else network.parameters(), 0.01, momentum=0.9)

    def loss_of(images, labels, t):
        with precision:
            if not curve:
                return functional.cross_entropy(network(images), labels)
            shares = (1 - t) ** 2, 2 * t * (1 - t), t**2
            weights = {name: sum(c * bend[name] for c, bend in zip(shares, bends)) for name in bends[0]}
            return functional.cross_entropy(torch.func.functional_call(network, weights, images), labels)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(images, labels):
        loss = loss_of(images, labels, torch.rand((), device=images.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def main(_):
    torch.manual_seed(FLAGS.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if FLAGS.channels_last else torch.contiguous_format
    network = make_network(FLAGS.network).to(device, memory_format=layout)
    precision = torch.autocast(device, torch.bfloat16, enabled=FLAGS.half)
    step = make_step(network, FLAGS.curve, FLAGS.compile, precision)
    images = torch.randint(0, 256, (FLAGS.steps, FLAGS.batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (FLAGS.steps, FLAGS.batch_size), device=device)

    def epoch():
        begin, total = time.perf_counter(), 0.0
        for batch, targets in zip(images, labels):
            total += step((batch.float() / 255).contiguous(memory_format=layout), targets)
        float(total)  # On a GPU, waits for the steps, as the end of an epoch does.
        return time.perf_counter() - begin

    epoch()
    for _ in sys.stdin:
        print(epoch(), flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("network", "vgg16", "As for `cifar.py`.")
    flags.DEFINE_bool("curve", False, "The step on a curve of three bends, instead of the plain step.")
    flags.DEFINE_bool("channels_last", False, "Keep the channels last in memory.")
    flags.DEFINE_bool("half", False, "Compute in bfloat16 where that is safe.")
    flags.DEFINE_bool("compile", False, "Compile the step by torch.compile.")
    flags.DEFINE_integer("steps", 5, "Steps for each line of input.")
    flags.DEFINE_integer("batch_size", 128, "Images per step.")
    flags.DEFINE_integer("seed", 0, "Seed of weights and images.")
    app.run(main)
