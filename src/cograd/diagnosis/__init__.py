"""What is wrong with the gradients of a script: rules over a recording, and reports of what they found."""

from cograd.diagnosis._doctor import Run as Run
from cograd.diagnosis._doctor import diagnose as diagnose
from cograd.diagnosis._doctor import run as run
from cograd.diagnosis._finding import Finding as Finding
from cograd.diagnosis._finding import Related as Related
from cograd.diagnosis._registry import Rule as Rule
from cograd.diagnosis._registry import every as every
from cograd.diagnosis._registry import known as known
from cograd.diagnosis._render import as_json as as_json
from cograd.diagnosis._render import as_sarif as as_sarif
from cograd.diagnosis._render import text as text
from cograd.diagnosis._report import Report as Report
from cograd.diagnosis._suppress import read_baseline as read_baseline
