#!/usr/bin/env bash
# Puts known bugs into the code, one at a time, and checks that each is still caught: scripts/mutants.sh [NAME...]
# The bugs are tests/mutants/NAME.patch; tests/BUGS.md has a table of them. Needs bash, git and Rust, and nothing else.
#
# A patch begins with a sentence that says what is broken, and one of these lines:
#   seed: N           the simulator (tests/sim) notices it when it runs this seed
#   test: raft NAME   a test notices it: cargo test --test raft NAME
# With the bug the code must build and the run must fail, without it the same run must pass. What a seed does changes with
# the simulator and with the code; then the first FALLBACK_SEEDS seeds are tried, which is as good if one of them fails. To
# record the seed that catches a bug now, of up to FIND_SEEDS: scripts/mutants.sh --find NAME...
#
# All happens in a copy of the tree in target/mutants, with a target directory of its own; the first build there takes a
# minute or two longer. All bugs together took 14 minutes on two busy cores; two idle ones should need less than ten.
# Exit status: 0 if all are caught; 1 if one is not, or its patch does not apply or does not build any more.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # For `sh scripts/mutants.sh`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FALLBACK_SEEDS=300
FIND_SEEDS=10000
# A bug that makes the simulator run without end is not caught.
SECONDS_MAX=900

work=$PWD/target/mutants
tree=$work/tree
log=$work/log
export CARGO_TARGET_DIR=$work/build CARGO_PROFILE_DEV_DEBUG=0 SYNCRAFT_SIM_SHRINK=0
# The copy is not a part of this repository, for git.
export GIT_CEILING_DIRECTORIES=$work

# Only files that differ are written, so that builds are incremental. The program itself is not needed, only the library.
copy_tree() {
    mkdir -p "$tree"
    local file
    while IFS= read -r -d '' file; do
        if [[ $file != src/main.rs && -f $file ]] && ! cmp -s "$file" "$tree/$file"; then
            mkdir -p "$tree/$(dirname "$file")"
            cp "$file" "$tree/$file"
        fi
    done < <(git ls-files -z --cached --others --exclude-standard)
    while IFS= read -r -d '' file; do
        [[ -e ${file#"$tree/"} ]] || rm "$file"
    done < <(find "$tree" -type f -print0)
}

# Builds the test binary $1; `built` is then its path.
build() {
    (cd "$tree" && cargo test --locked --no-run --test "$1") >"$log" 2>&1 || return 1
    built=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$log")
    [[ $built == /* ]] || built=$tree/$built
}

# Runs the test binary $1 with the variable $2=$3 of the simulator. True if nothing fails.
run_seeds() {
    env "$2=$3" timeout "$SECONDS_MAX" "$1" --exact --nocapture no_seed_breaks_a_promise >"$log" 2>&1
}

# Runs in the test binary $1 what is named $2.
run_test() {
    "$1" --exact "$2" >"$log" 2>&1
}

# What the last run says is broken: the first line of its panic; for an assertion that compares, what it is about.
violation() {
    sed -n '/panicked at/{n;s/^seed [0-9]*: //;s/^assertion `[^`]*` failed: //;p;q;}' "$log" | cut -c -110
}

# The value of the line "$2: value" in the patch $1.
field() {
    sed -n "/^diff /q;s/^$2: //p" "$1"
}

say() {
    printf '%-42s %-6s %s\n' "$1" "$2" "$3"
}

# The seed that fails among the first $2, in the binary $1; nothing if none does.
search() {
    run_seeds "$1" SYNCRAFT_SIM_SEEDS "$2" || sed -n 's/^seed \([0-9]*\) failed: .*/\1/p' "$log"
}

# With the patch applied: is it caught? Fails if not.
check_seed() {
    local name=$1 patch=$2 seed found
    seed=$(field "$patch" seed)
    build sim || { say "$name" "$seed" "DOES NOT BUILD: $log" && return 1; }
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
            say "$name" "$found" "$(violation) (recorded is $seed: renew)"
        fi
    fi
    run_seeds "$work/sound-sim" SYNCRAFT_SIM_SEED "$found" \
        || { say "$name" "$found" "FAILS WITHOUT THE BUG, TOO" && return 1; }
}

check_test() {
    local name=$1 target test
    read -r target test <<<"$(field "$2" test)"
    build "$target" || { say "$name" "" "DOES NOT BUILD: $log" && return 1; }
    ! run_test "$built" "$test" && [[ -n $(violation) ]] \
        || { say "$name" "" "NOT CAUGHT by $test" && return 1; }
    say "$name" "" "$test: $(violation)"
    run_test "$work/sound-$target" "$test" \
        || { say "$name" "" "FAILS WITHOUT THE BUG, TOO: $test" && return 1; }
}

# Puts the bug in, and takes it out again.
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

is_find=false seeds_max=$FALLBACK_SEEDS
if [[ ${1:-} == --find ]]; then
    is_find=true seeds_max=$FIND_SEEDS
    shift
fi
names=("$@")
if ((${#names[@]} == 0)); then
    names=(tests/mutants/*.patch)
fi
names=("${names[@]##*/}")
names=("${names[@]%.patch}")

copy_tree
# Without any bug, to tell a bug from what fails anyhow.
targets=$(for name in "${names[@]}"; do field "tests/mutants/$name.patch" test; done | cut -d ' ' -f 1 | sort -u)
for target in sim $targets; do
    build "$target" || { cat "$log" && exit 1; }
    cp "$built" "$work/sound-$target"
done
caught=0
for name in "${names[@]}"; do
    check "$name" && caught=$((caught + 1)) || true
done
printf '%s of %s bugs caught in %s s\n' "$caught" "${#names[@]}" "$SECONDS"
((caught == ${#names[@]}))
