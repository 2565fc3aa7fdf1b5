#compdef cobalt
# zsh completion for cobalt. `cobalt completion zsh` prints it.
_cobalt() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    # Where it has nothing to say, a file may be meant.
    if (( ${#found} )); then _describe cobalt found; else _files; fi
}
if [[ $funcstack[1] == _cobalt ]]; then _cobalt "$@"; else compdef _cobalt cobalt; fi
