from .candidates import CandidateEnv as CandidateEnv
from .mdp import TokenMDP as TokenMDP
from .single import TokenEnv as TokenEnv
from .text_view import TextView as TextView
from .vector import TokenVectorEnv as TokenVectorEnv
from .wrappers import ReferenceKL as ReferenceKL
from .wrappers import VectorReferenceKL as VectorReferenceKL
