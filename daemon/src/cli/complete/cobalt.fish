# fish completion for cobalt. `cobalt completion fish` prints it.
function __cobalt_complete
    set -l typed (commandline -opc)
    $typed[1] __complete -- $typed[2..-1] (commandline -ct) 2>/dev/null
end
complete -c cobalt -n 'test (count (__cobalt_complete)) -gt 0' -f -a '(__cobalt_complete)'
