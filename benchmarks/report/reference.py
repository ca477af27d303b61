"""Numbers to compare with: those for curves from the authors' repository, those for ensembles from the paper's Table 1.

All are for CIFAR without re-compression, errors in %. The repository: github.com/timgaripov/dnn-mode-connectivity
(README). Table 1 was taken from a lecture that reprints it.
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

# Table 1 of the paper: {(network, number of classes): {method: (test error at 1B, 2B, 3B, standard deviation at 1B)}}
ENSEMBLES = {
    ("vgg16", 100): {
        "ind": (27.4, 25.28, 24.45, 0.1),
        "sse": (26.4, 25.16, 24.69, 0.1),
        "fge": (25.7, 24.11, 23.54, 0.1),
    },
    ("vgg16", 10): {
        "ind": (6.75, 5.89, 5.9, 0.16),
        "sse": (6.57, 6.19, 5.95, 0.12),
        "fge": (6.48, 5.82, 5.66, 0.09),
    },
    ("preresnet164", 100): {
        "ind": (21.5, 19.04, 18.59, 0.4),
        "sse": (20.9, 19.28, 18.91, 0.2),
        "fge": (20.2, 18.67, 18.21, 0.1),
    },
    ("preresnet164", 10): {
        "ind": (4.72, 4.1, 3.77, 0.1),
        "sse": (4.66, 4.37, 4.3, 0.02),
        "fge": (4.54, 4.21, 3.98, 0.05),
    },
    ("wrn28x10", 100): {
        "ind": (19.2, 17.48, 17.01, 0.2),
        "sse": (17.9, 17.3, 16.97, 0.2),
        "fge": (17.7, 16.95, 16.88, 0.2),
    },
    ("wrn28x10", 10): {
        "ind": (3.82, 3.4, 3.31, 0.1),
        "sse": (3.73, 3.54, 3.55, 0.04),
        "fge": (3.65, 3.38, 3.52, 0.1),
    },
}
