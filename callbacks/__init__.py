"""One Catalyst callback a file, named after its class. Import them as `rdtrain.callbacks`.

Order at the end of an epoch: the switch decides (45), schedulers step (50), early stopping (55), what looks on (70 to
77), the checkpoint (90), the summary (100). Records are written before the checkpoint, so that a run that is killed
between the two writes them again when it continues, and never lacks an epoch.
"""

from rdtrain.callbacks.checkpoint import Checkpoint
from rdtrain.callbacks.csv_log import CsvLog
from rdtrain.callbacks.early_stopping import EarlyStopping
from rdtrain.callbacks.entropy_report import EntropyReport
from rdtrain.callbacks.figures import Figures
from rdtrain.callbacks.health import Health
from rdtrain.callbacks.profile import Profile
from rdtrain.callbacks.progress import Progress
from rdtrain.callbacks.run_record import RunRecord
from rdtrain.callbacks.scheduler_step import SchedulerStep
from rdtrain.callbacks.spectral_switch import SpectralSwitch
from rdtrain.callbacks.tensorboard_log import TensorBoardLog

__all__ = [
    "Checkpoint",
    "CsvLog",
    "EarlyStopping",
    "EntropyReport",
    "Figures",
    "Health",
    "Profile",
    "Progress",
    "RunRecord",
    "SchedulerStep",
    "SpectralSwitch",
    "TensorBoardLog",
]
