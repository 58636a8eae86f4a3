"""What is told while a detector is fitted: events, and callbacks for TensorBoard and MLflow."""

from .events import Callback, FitInfo
from .pass_info import PassInfo
from .to_mlflow import MLflowCallback
from .to_tensorboard import TensorBoardCallback

__all__ = ["Callback", "FitInfo", "MLflowCallback", "PassInfo", "TensorBoardCallback"]
