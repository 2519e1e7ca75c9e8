"""What the cross-modal blocks add on each data source, from the per-clip predictions in git."""

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pandas as pd

from cfnsr.data.corpora import Protocol
from cfnsr.evaluation.predictions import read
from cfnsr.evaluation.scores import outcomes, paired_test, score
from cfnsr.evaluation.tables import DATA_LABELS, TEST_RULE, by_row, ceilings, last_quarter_pct
from cfnsr.models.registry import REFERENCE
from cfnsr.params import Params

#: CFN-SR without its blocks: the same encoders, spliced.
WITHOUT = "no_cross_modal"
_SCORES = ("accuracy_pct", "ci_low_pct", "ci_high_pct")


def block_gains(settings: Params, repository: Path) -> pd.DataFrame:
    """One line per data source whose predictions hold both systems.

    The primary protocol, nested, where there is one, else the paper's; the rule is the last epoch.

    Columns: data, label, protocol; accuracy_pct, ci_low_pct and ci_high_pct with the endings
    `_without` and `_with`; the fields of `PairedTest`, of CFN-SR minus the same without its blocks;
    additive_ceiling_pct and ceiling_pct, nan where unknown; last_quarter_pct, of CFN-SR.
    """
    lines = []
    for data, label in DATA_LABELS.items():
        for protocol in reversed(get_args(Protocol)):
            folder = repository / "figures" / data / "predictions" / protocol
            runs = by_row(read(folder)) if folder.is_dir() else {}
            if not {REFERENCE, WITHOUT} <= runs.keys():
                continue
            known = ceilings(settings.model_copy(update={"data": data}))
            of_modality = known.set_index("modality")["ceiling_pct"]
            line = {"data": data, "label": label, "protocol": protocol}
            for which, row in (("without", WITHOUT), ("with", REFERENCE)):
                found = asdict(score(runs[row], TEST_RULE))
                line |= {f"{name}_{which}": found[name] for name in _SCORES}
            own, other = (outcomes(runs[row], TEST_RULE) for row in (REFERENCE, WITHOUT))
            line |= asdict(paired_test(own, other, TEST_RULE))
            line |= {
                "additive_ceiling_pct": of_modality["additive"],
                "ceiling_pct": of_modality["audio_video"],
                "last_quarter_pct": last_quarter_pct(runs[REFERENCE]),
            }
            lines.append(line)
            break
    return pd.DataFrame(lines)
