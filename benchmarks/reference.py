"""Numbers to compare with, from the authors' repository, github.com/timgaripov/dnn-mode-connectivity (README).

All are for CIFAR without re-compression, errors in %. The README gives no numbers for Snapshot Ensembles. It gives
those for ensembles on CIFAR-10 only in a comment.
"""

# {(network, number of classes): {path: (least, largest train loss, least, largest test error)}}
CURVES = {
    ("vgg16", 10): {
        "endpoints": (0.24, 0.24, 6.79, 6.94),
        "bezier": (0.14, 0.24, 6.79, 7.75),
        "chain": (0.16, 0.27, 6.79, 8.08),
    },
    ("preresnet164", 10): {
        "endpoints": (0.18, 0.18, 4.76, 4.75),
        "bezier": (0.09, 0.18, 4.45, 4.97),
        "chain": (0.11, 0.18, 4.39, 5.13),
    },
    ("wrn28x10", 10): {
        "endpoints": (0.08, 0.09, 3.69, 3.73),
        "bezier": (0.05, 0.09, 3.49, 3.88),
        "chain": (0.05, 0.10, 3.53, 4.29),
    },
    ("vgg16", 100): {
        "endpoints": (0.89, 0.89, 27.5, 27.5),
        "bezier": (0.48, 0.89, 27.4, 30.1),
        "chain": (0.59, 1.05, 27.1, 30.8),
    },
    ("preresnet164", 100): {
        "endpoints": (0.49, 0.49, 21.6, 21.7),
        "bezier": (0.26, 0.49, 21.3, 23.4),
        "chain": (0.30, 0.49, 21.4, 23.6),
    },
    ("wrn28x10", 100): {
        "endpoints": (0.20, 0.21, 18.6, 18.9),
        "bezier": (0.11, 0.21, 18.3, 19.2),
        "chain": (0.13, 0.21, 18.4, 19.0),
    },
}

# {(network, number of classes): {method: test error at 1B, 2B, 3B}}
ENSEMBLES = {
    ("vgg16", 10): {"ind": (6.83, 6.42, 5.95), "fge": (6.36, 5.99, 5.67)},
    ("wrn28x10", 10): {"ind": (3.75, 3.35, 3.20), "fge": (3.58, 3.51, 3.47)},
    ("vgg16", 100): {"ind": (27.5, 25.2, 24.4), "fge": (25.4, 23.9, 23.4)},
    ("preresnet164", 100): {"ind": (21.6, 19.5, 18.4), "fge": (19.7, 18.7, 18.3)},
    ("wrn28x10", 100): {"ind": (19.2, 17.6, 17.0), "fge": (17.7, 17.1, 16.8)},
}
