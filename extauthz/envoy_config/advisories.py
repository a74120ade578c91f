"""Envoy versions with a published, open security advisory, as known on 2026-11-21.

Envoy keeps its four newest minor lines. For each, this is the first patch release that has the fixes of the last advisories whose
numbers could be read when the table was made (CVE-2026-73511 to CVE-2026-73553, August 2026). The lines had further releases in
October 2026 whose advisories are not in it: it finds what is surely open, and its silence is not a proof. A version newer than the
table is taken as it is.
"""

import re

#: Minor line to the first safe patch release.
FIXED_IN = {36: 10, 37: 6, 38: 4, 39: 1, 40: 0}
#: What is open below that patch release, for the finding.
ADVISORIES = "CVE-2026-73511 and others of August 2026"
#: Lines below this one get no fixes any more.
OLDEST_LINE = min(FIXED_IN)


def open_in(version: str) -> str:
    """What is open in this version, `` when nothing known is. A text that is no version says so, rather than to pass."""
    found = re.fullmatch(r"v?1\.(\d{1,3})\.(\d{1,3})(?:[-+].*)?", version.strip())
    if found is None:
        return "is not a version such as 1.40.0"
    line, patch = int(found[1]), int(found[2])
    if line < OLDEST_LINE:
        return f"is of a line without security fixes since 1.{OLDEST_LINE}.0 is the oldest maintained"
    if patch < FIXED_IN.get(line, 0):
        return f"is open to {ADVISORIES}, fixed in 1.{line}.{FIXED_IN[line]}"
    return ""
