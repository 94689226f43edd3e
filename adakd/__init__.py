"""AdaKD: recipes that distil speech recognisers with a weight of its own for every utterance."""

__version__ = "0.1.0"
