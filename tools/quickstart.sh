#!/usr/bin/env bash
# From nothing to a table and plots: installs, prepares the embedded dataset, trains plain concatenation and CAL, tests both
# clean and under noise. At most 10 minutes on 2 cores; after the installation it needs no network.
#
#   bash tools/quickstart.sh [OUT]       OUT is where everything goes (default: work_dirs/quickstart)
#
# Run it again after an interruption: what is finished is kept, a training goes on from its last epoch.
# tools/environment.sh says where it installs. CAL_MM_DATA=DIR: the dataset (default: data/digits_av).
# CAL_MM_QUICKSTART_EPOCHS=N: fewer epochs, for a try of the script itself; the numbers then mean nothing.
set -euo pipefail
START=$SECONDS
WHERE=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

OUT="${1:-$ROOT/work_dirs/quickstart}"
DATA="${CAL_MM_DATA:-$ROOT/data/digits_av}"
case "${1:-}" in -*) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
# paths of the caller are relative to where he is
case "$OUT" in /*) ;; *) OUT="$WHERE/$OUT" ;; esac
case "$DATA" in /*) ;; *) DATA="$WHERE/$DATA" ;; esac

STEPS=6
step=0
say() {
    step=$((step + 1))
    printf '\n[%d/%d] %s  (%d s)\n' "$step" "$STEPS" "$*" $((SECONDS - START))
}

# What a result depends on: the code, the configs, the data. Another digest starts the training afresh.
run_digest() { # CONFIG
    "$PY" - "$1" "$DATA/manifest.json" "${CAL_MM_QUICKSTART_EPOCHS:-}" <<'PYTHON'
import hashlib, pathlib, sys
files = sorted(p for d in ('cal_mm', 'configs/_base_') for p in pathlib.Path(d).rglob('*.py'))
digest = hashlib.sha256(sys.argv[3].encode())
for path in [*files, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])]:
    digest.update(path.read_bytes() + b'\0')
print(digest.hexdigest())
PYTHON
}

options=()
for split in train val test; do
    options+=("${split}_dataloader.dataset.data_root=$DATA")
done
if [ -n "${CAL_MM_QUICKSTART_EPOCHS:-}" ]; then
    options+=("train_cfg.max_epochs=$CAL_MM_QUICKSTART_EPOCHS")
fi

# train and attack are called left of ||, where bash ignores set -e: each step says itself that it failed.
train() { # METHOD
    local config="configs/$1/digits_av_small_concat_$1.py" dir="$OUT/$1" digest
    digest="$(run_digest "$config")" || return 1
    if [ "$(cat "$dir/started" 2>/dev/null)" != "$digest" ]; then
        if [ -e "$dir" ] && [ ! -f "$dir/started" ] && [ -n "$(ls -A "$dir")" ]; then
            die "$dir is there and is not of an earlier quickstart: move it away, or name another folder (quickstart.sh OUT)"
        fi
        rm -rf "$dir" && mkdir -p "$dir" && printf '%s\n' "$digest" >"$dir/started" || return 1
    fi
    if [ -f "$dir/trained" ]; then
        printf '      %s is trained already\n' "$dir"
        return
    fi
    with_progress "$dir/train.log" "$PY" tools/train.py "$config" --work-dir "$dir" --resume --cfg-options "${options[@]}" || return 1
    : >"$dir/trained"
    printf '      %s trained, last validation accuracy %s\n' "$1" "$(grep -ho 'accuracy/top1: [0-9.]*' "$dir/train.log" | tail -n 1 | sed 's/.*: //')"
}

attack() { # METHOD
    local dir="$OUT/$1" config="configs/$1/digits_av_small_concat_$1.py" checkpoint
    if [ -f "$dir/results.json" ]; then
        printf '      %s is there already\n' "$dir/results.json"
        return
    fi
    checkpoint="$(cat "$dir/last_checkpoint")" || return 1
    with_progress "$dir/test.log" "$PY" tools/test.py "$config" "$checkpoint" --work-dir "$dir" --out "$dir/results.json" \
        --attack gaussian:1,3,5@image salt_pepper:1,3,5@image noise:1,3,5@audio --drop audio --drop image \
        --cfg-options "${options[@]}"
}

# Both methods side by side, one thread each: as fast as one after the other on two free cores, far faster on busy ones.
both() { # FUNCTION
    local first second status=0
    LABEL='concat' "$1" concat &
    first=$!
    LABEL='cal   ' "$1" cal &
    second=$!
    trap 'kill "$first" "$second" 2>/dev/null || true; wait; exit 130' INT TERM
    wait "$first" || status=1
    wait "$second" || status=1
    trap - INT TERM
    return "$status"
}

say 'Python and the installation'
prepare_environment digits
cd "$ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$OUT"

say "prepare the dataset digits_av: MNIST images and spoken digits, in $DATA"
with_progress "$OUT/prepare.log" "$PY" -m data_prep.digits_av --out "$DATA" --workers 2
tail -n 1 "$OUT/prepare.log" | sed 's/^/      /'

say 'train plain concatenation and CAL (2 to 3 minutes)'
both train || die 'a training failed; the reason is above. Run this script again to go on from the last epoch'

say 'test both, clean and under noise'
both attack || die 'a test failed; the reason is above'

say 'plots'
with_progress "$OUT/plots.log" "$PY" tools/plot_history.py "$OUT/cal/contribution.jsonl" --out "$OUT/plots/contribution"
with_progress "$OUT/plots.log" "$PY" tools/plot_robustness.py "$OUT/concat/results.json" "$OUT/cal/results.json" \
    --labels concat CAL --out "$OUT/plots/robustness"

say 'results on the test split'
printf '\n'
"$PY" tools/compare_table.py "$OUT/concat/results.json" "$OUT/cal/results.json" --labels concat CAL | tee "$OUT/table.txt"
cat <<EOT

W^m, k and beta over the epochs:  $OUT/plots/contribution.png
accuracy against severity:        $OUT/plots/robustness.png
table, results, checkpoints, logs: $OUT

done in $((SECONDS - START)) s
EOT
