# Completes lines as an interactive shell does: `_host COMMAND WORD PREVIOUS` fills COMPREPLY.
source host.bash

complete_line() {
    local function
    COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=()
    read -ra COMP_WORDS <<< "$1"
    [[ $1 == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    function=$(complete -p host | sed 's/.* -F \([^ ]*\) .*/\1/')
    "$function" host "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    echo "$1 ->" "${COMPREPLY[@]}"
}

complete_line 'host te'
complete_line 'host s'
complete_line 'host review --fo'
complete_line 'host review --format '
complete_line 'host test --co'
complete_line 'host rollback --r'
complete_line 'host --color a'
complete_line 'host completions '
