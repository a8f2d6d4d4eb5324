#!/usr/bin/env bash
# Known vulnerabilities of the locked packages, by pip-audit: exit code 1 where there are some. pip-audit asks a database
# on the network; mirrors of the package registry have none. Where it cannot be asked, this says so, on stderr, and is no
# failure: what is locked has then NOT been audited. (So it was on the machine where this was written: what is said of
# findings below was tried with a stand-in for pip-audit, tests/contract/test_audit.py.)
set -euo pipefail
python=${1:?usage: tools/audit.sh PYTHON}
lock=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
not_audited() {
    tail -n 3 "$scratch/log" >&2 || true
    echo "NOT AUDITED: $1. Run 'make audit' where it can be reached." >&2
    exit 0
}

# Not in the lock, nor in the environment that it audits: it brings two dozen packages of its own.
audit=${PIP_AUDIT:-$scratch/audit/bin/pip-audit}
if [ -z "${PIP_AUDIT:-}" ]; then
    "$python" -m venv "$scratch/audit"
    "$scratch/audit/bin/python" -m pip --disable-pip-version-check install --quiet "pip-audit==2.10.1" 2>"$scratch/log" ||
        not_audited "pip-audit could not be installed"
fi
ask() { # LOCK ANSWER: 0 where nothing is known against it. Findings and network trouble both end with 1.
    timeout 300 "$audit" --requirement "$1" --no-deps --disable-pip --progress-spinner off --format json --output "$2" \
        2>"$scratch/log"
}

# One package first: a registry without a database answers "skipped" for all of them, which is not "nothing found".
grep -i '^pyyaml==' "$lock" >"$scratch/one.txt"
ask "$scratch/one.txt" "$scratch/one.json" || true
grep -q '"vulns"' "$scratch/one.json" 2>/dev/null || not_audited "the vulnerability database could not be asked"
ask "$lock" "$scratch/all.json" && found=0 || found=$?
[ -s "$scratch/all.json" ] || not_audited "the vulnerability database stopped answering"
"$python" - "$scratch/all.json" <<'PYTHON'
import json, sys
packages = json.load(open(sys.argv[1]))["dependencies"]
for package in packages:
    for vulnerability in package.get("vulns", []):
        fixed = ", ".join(vulnerability["fix_versions"]) or "nowhere yet"
        print(f"VULNERABLE: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    if "skip_reason" in package:
        print(f"NOT AUDITED: {package['name']}: {package['skip_reason']}")
print(f"audited: {sum('vulns' in package for package in packages)} of {len(packages)} locked packages")
PYTHON
exit "$found"
