"""Where the values of a run are written to: files in its directory, or experiment trackers."""

from cograd.training.loggers._csv import CSV as CSV
from cograd.training.loggers._jsonl import JSONL as JSONL
from cograd.training.loggers._logger import Logger as Logger
from cograd.training.loggers._mlflow import MLflow as MLflow
from cograd.training.loggers._tensorboard import TensorBoard as TensorBoard
from cograd.training.loggers._wandb import WandB as WandB

__all__ = ["CSV", "JSONL", "Logger", "MLflow", "TensorBoard", "WandB"]
