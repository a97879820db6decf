#!/usr/bin/env bash
# Train on the LIDC nodule cubes for both targets and collect results.json.
#   reports/lidc_nodules/run.sh DATA OUT      DATA holds studies/ and labels.csv
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
for target in "spiculation>=3" "malignancy>=4"; do
    medmllm train --studies "$data/studies" --labels "$data/labels.csv" --target "$target" \
        --out "$out/${target%%>*}" --config "$here/lidc.toml" --overwrite
done
python "$here/collect.py" "$out"
