# bash completion for cobalt. `cobalt completion bash` prints it.
_cobalt() {
    local line IFS=$'\n'
    COMPREPLY=()
    while IFS=$'\t' read -r line _; do
        COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
# Where it has nothing to say, a file may be meant.
complete -o default -F _cobalt cobalt
