from .lm_policy import Acted as Acted
from .lm_policy import Evaluation as Evaluation
from .lm_policy import LMPolicy as LMPolicy
from .lm_policy import Session as Session
from .reference import Reference as Reference
