from .store import Answer as Answer
from .store import LabelStore as LabelStore
from .store import Watched as Watched
from .store import question_id as question_id
