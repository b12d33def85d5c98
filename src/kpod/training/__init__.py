"""Student training: a stage's examples, the loss of Eq. 15, and a Trainer that can be killed and resumed exactly."""

from kpod.training.arguments import check_arguments, training_arguments
from kpod.training.batches import StageDataset, StageExample, StageSampler
from kpod.training.checkpoints import last_valid_checkpoint
from kpod.training.collation import Collator
from kpod.training.row_dataset import RowDataset
from kpod.training.student import TrainingSummary, finished, flash_attention, train_student
from kpod.training.trainer import KeypointTrainer

__all__ = [
    "Collator",
    "KeypointTrainer",
    "RowDataset",
    "StageDataset",
    "StageExample",
    "StageSampler",
    "TrainingSummary",
    "check_arguments",
    "finished",
    "flash_attention",
    "last_valid_checkpoint",
    "train_student",
    "training_arguments",
]
