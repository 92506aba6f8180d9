#!/usr/bin/env bash
# Inserts known bugs into the code, one at a time, and checks that the tests still catch each:
#   scripts/mutants.sh [NAME...]
# The bugs are tests/mutants/NAME.patch; tests/BUGS.md has a table of them. Needs only bash, git and
# Rust.
#
# A patch begins with a sentence that says what is broken, followed by one of these lines:
#   seed: N           the simulator (tests/sim) catches the bug with this seed
#   test: raft NAME   a test catches the bug: cargo test --test raft NAME
#   test: lib NAME    a unit test catches it: cargo test --lib NAME
# With the bug, the code must build and the run must fail. Without the bug, the same run must pass.
# The events of a seed change with the simulator and the code. If the recorded seed misses the bug,
# the script tries the first FALLBACK_SEEDS seeds and accepts one that fails. Other uses:
#   scripts/mutants.sh --find NAME...     records in each patch the first of FIND_SEEDS seeds that
#                                         catches the bug now
#   scripts/mutants.sh --fits [NAME...]   only checks that each patch applies; builds nothing
#
# The script builds the bugs in a copy of the tree, target/mutants/tree. Dependencies, and programs
# without a bug, come from the usual target directory: what `cargo test` has built is not built
# again. All bugs together take about ten minutes on two idle cores.
#
# Exit status: 0 if all bugs are caught; 1 if one is not caught, does not build, or does not apply.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/mutants.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FALLBACK_SEEDS=300
FIND_SEEDS=10000
# A bug that makes the simulator run for ever counts as not caught.
SECONDS_MAX=900

work=$PWD/target/mutants
tree=$work/tree
log=$work/log
export SYNCRAFT_SIM_SHRINK=0
# Keeps git from treating the copy as a part of this repository.
export GIT_CEILING_DIRECTORIES=$work

# Copies only files that differ, so that builds stay incremental.
copy_tree() {
    mkdir -p "$tree"
    local file
    while IFS= read -r -d '' file; do
        if [[ -f $file ]] && ! cmp -s "$file" "$tree/$file"; then
            mkdir -p "$tree/$(dirname "$file")"
            cp "$file" "$tree/$file"
        fi
    done < <(git ls-files -z --cached --others --exclude-standard)
    while IFS= read -r -d '' file; do
        [[ -e ${file#"$tree/"} ]] || rm "$file"
    done < <(find "$tree" -type f -print0)
}

# Runs cargo in the copy, with dependencies from the usual target directory. Cargo names a crate's
# files by its name and its path in the workspace, so the copy's crates would replace ours. Another
# number of codegen units gives them other names. Finished programs still have the same name, so
# they go to a directory of their own.
cargo_in_tree() {
    local usual crate options=()
    usual=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    for crate in syncraft syncraft-build syncraft-raft syncraft-rpc syncraft-types; do
        options+=(--config "profile.dev.package.$crate.codegen-units=255")
        options+=(--config "profile.dev.package.$crate.debug=0")
    done
    (cd "$tree" && CARGO_BUILD_BUILD_DIR=$usual CARGO_TARGET_DIR=$work/build \
        cargo "$@" "${options[@]}")
}

# Builds the test binary $1 with the command in the other arguments. Sets `built` to its path.
build() {
    local which=(--workspace --test "$1")
    [[ $1 != lib ]] || which=(--package syncraft --lib)
    shift
    "$@" test --locked --no-run "${which[@]}" >"$log" 2>&1 || return 1
    built=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$log")
    [[ -n $built ]] || return 1
    built=$(realpath "$built")
}

# Runs the test binary $1 with the simulator's variable $2=$3. Succeeds if nothing fails.
run_seeds() {
    env "$2=$3" timeout "$SECONDS_MAX" "$1" --exact --nocapture no_seed_breaks_a_promise \
        >"$log" 2>&1
}

# Runs the test $2 of the test binary $1.
run_test() {
    timeout "$SECONDS_MAX" "$1" --exact "$2" >"$log" 2>&1
}

# Prints what the last run found broken: the first line of the panic, or the assertion's message.
violation() {
    sed -n '/panicked at/{n;s/^seed [0-9]*: //;s/^assertion `[^`]*` failed: //;p;q;}' "$log" \
        | cut -c -110
}

# Prints the value of the line "$2: VALUE" in the patch $1.
field() {
    sed -n "/^diff /q;s/^$2: //p" "$1"
}

say() {
    printf '%-42s %-6s %s\n' "$1" "$2" "$3"
}

# Prints the first of $2 seeds that fails in the binary $1, or nothing.
search() {
    run_seeds "$1" SYNCRAFT_SIM_SEEDS "$2" || sed -n 's/^seed \([0-9]*\) failed: .*/\1/p' "$log"
}

# Fails if the simulator does not catch the bug, which is in the copy now.
check_seed() {
    local name=$1 patch=$2 seed found
    seed=$(field "$patch" seed)
    build sim cargo_in_tree || { say "$name" "$seed" "DOES NOT BUILD: $log" && return 1; }
    if ! $is_find && ! run_seeds "$built" SYNCRAFT_SIM_SEED "$seed" && [[ -n $(violation) ]]; then
        found=$seed
        say "$name" "$seed" "$(violation)"
    else
        found=$(search "$built" "$seeds_max")
        [[ -n $found ]] || { say "$name" "$seed" "NOT CAUGHT" && return 1; }
        if $is_find; then
            sed -i "s/^seed: .*/seed: $found/" "$patch"
            say "$name" "$found" "$(violation)"
        else
            say "$name" "$found" "$(violation) (the recorded seed, $seed, misses it: run --find)"
        fi
    fi
    run_seeds "${sound[sim]}" SYNCRAFT_SIM_SEED "$found" \
        || { say "$name" "$found" "FAILS WITHOUT THE BUG, TOO" && return 1; }
}

# Fails if the named test does not catch the bug, which is in the copy now.
check_test() {
    local name=$1 target test
    read -r target test <<<"$(field "$2" test)"
    build "$target" cargo_in_tree || { say "$name" "" "DOES NOT BUILD: $log" && return 1; }
    ! run_test "$built" "$test" && [[ -n $(violation) ]] \
        || { say "$name" "" "NOT CAUGHT by $test" && return 1; }
    say "$name" "" "$test: $(violation)"
    run_test "${sound[$target]}" "$test" \
        || { say "$name" "" "FAILS WITHOUT THE BUG, TOO: $test" && return 1; }
}

# Inserts the bug into the copy, checks that it is caught, and removes it again.
check() {
    local name=$1 patch=$PWD/tests/mutants/$1.patch is_caught=true
    git -C "$tree" apply "$patch" 2>"$log" || { say "$name" "" "DOES NOT APPLY: $log" && return 1; }
    if [[ -n $(field "$patch" test) ]]; then
        check_test "$name" "$patch" || is_caught=false
    else
        check_seed "$name" "$patch" || is_caught=false
    fi
    $is_caught || cp "$log" "$work/not-caught-$name.log"
    git -C "$tree" apply --reverse "$patch"
    $is_caught
}

is_find=false is_fits=false seeds_max=$FALLBACK_SEEDS
case ${1:-} in
    --find) is_find=true seeds_max=$FIND_SEEDS && shift ;;
    --fits) is_fits=true && shift ;;
    -*) echo "usage: scripts/mutants.sh [--find|--fits] [NAME...]" >&2 && exit 2 ;;
esac
names=("$@")
if ((${#names[@]} == 0)); then
    names=(tests/mutants/*.patch)
fi
names=("${names[@]##*/}")
names=("${names[@]%.patch}")
for name in "${names[@]}"; do
    [[ -f tests/mutants/$name.patch ]] \
        || { echo "there is no bug \"$name\" in tests/mutants" >&2 && exit 2; }
done

if $is_fits; then
    misfits=0
    for name in "${names[@]}"; do
        git apply --check "tests/mutants/$name.patch" \
            || { say "$name" "" "DOES NOT APPLY" && misfits=$((misfits + 1)); }
    done
    ((misfits == 0))
    exit
fi

copy_tree
# Builds without bugs: a run that fails without the bug, too, proves nothing.
declare -A sound=()
for name in "${names[@]}"; do
    target=$(field "tests/mutants/$name.patch" test)
    target=${target%% *}
    target=${target:-sim}
    [[ -z ${sound[$target]:-} ]] || continue
    build "$target" cargo || { cat "$log" && exit 1; }
    sound[$target]=$built
done
caught=0
for name in "${names[@]}"; do
    check "$name" && caught=$((caught + 1)) || true
done
printf '%s of %s bugs caught in %s s\n' "$caught" "${#names[@]}" "$SECONDS"
((caught == ${#names[@]}))
