"""Small complete systems on real data, one readable file each, to be copied as starting points."""

from cograd.recipes._catalogue import RecipeError as RecipeError
from cograd.recipes._catalogue import build as build
from cograd.recipes._catalogue import names as names
from cograd.recipes._data import Split as Split
from cograd.recipes._data import load as load
from cograd.recipes._data import minibatches as minibatches
from cograd.recipes._recipe import Recipe as Recipe
from cograd.recipes._recipe import main as main
from cograd.recipes._recipe import train as train

__all__ = ["Recipe", "RecipeError", "Split", "build", "load", "main", "minibatches", "names", "train"]
