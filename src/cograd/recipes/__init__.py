"""Small complete systems on real data, one readable file each, to be copied as starting points."""

from cograd.recipes._catalogue import build as build
from cograd.recipes._catalogue import names as names
from cograd.recipes._data import Minibatches as Minibatches
from cograd.recipes._data import Split as Split
from cograd.recipes._data import load as load
from cograd.recipes._metrics import accuracy as accuracy
from cograd.recipes._metrics import likeness as likeness
from cograd.recipes._metrics import majority as majority
from cograd.recipes._metrics import rmse as rmse
from cograd.recipes._networks import mlp as mlp
from cograd.recipes._networks import predicting as predicting
from cograd.recipes._pictures import draw_images as draw_images
from cograd.recipes._recipe import Recipe as Recipe
from cograd.recipes._recipe import main as main
from cograd.recipes._recipe import train as train

__all__ = [
    "Minibatches",
    "Recipe",
    "Split",
    "accuracy",
    "build",
    "draw_images",
    "likeness",
    "load",
    "main",
    "majority",
    "mlp",
    "names",
    "predicting",
    "rmse",
    "train",
]
