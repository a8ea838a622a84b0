"""Who trains whom: which loss reaches which model, by how much, and where a gradient was cut."""

from cograd.explanation._explain import explain as explain
from cograd.explanation._explain import record as record
from cograd.explanation._explanation import Explanation as Explanation
