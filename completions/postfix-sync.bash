# bash completion for postfix-sync(8), loaded by bash-completion as completions/postfix-sync.
#
# Completion does not run postfix-sync: it reads the destinations and generations from the state
# directory, if the user may read it. tests/unit/test_manual.py checks the commands and options.

_postfix_sync() {
    local common='-h --help -c --config -v --verbose -q --quiet --log-format'
    local cur='' before='' command='' config=/etc/postfix-sync/config.yaml once='' word joined=''
    COMPREPLY=()
    ((COMP_CWORD)) || return

    # readline also splits words at : and =, so HOST:PORT and --level=rcpt arrive in pieces.
    local -i at
    local -a words=()
    for ((at = 1; at <= COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == = ]]; then
            ((at < COMP_CWORD)) && continue
            word=''
        fi
        if [[ ($joined || $word == :*) && ${#words[@]} -gt 0 ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        [[ $word == *: && $COMP_WORDBREAKS == *:* ]] && joined=1 || joined=''
    done
    cur=${words[-1]}

    for word in "${words[@]:0:${#words[@]}-1}"; do
        case $before in
            -c | --config) config=${word/#\~\//"$HOME/"} ;;
            --rcpt | --level | --log-format) ;;
            *)
                case $word in
                    --once) once=1 ;;
                    probe | doctor | explain | setup | status | rollback | resume)
                        [[ $command ]] || command=$word
                        ;;
                esac
                ;;
        esac
        before=$word
    done

    case $before in
        -c | --config)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --log-format) _postfix_sync_offer 'text json' ;;
        --level) _postfix_sync_offer 'connect lhlo rcpt' ;;
        --rcpt) ;;
        *)
            case $command,$cur in
                probe,-*) _postfix_sync_offer "$common --rcpt --level --json --nagios" ;;
                doctor,-* | explain,-* | status,-*) _postfix_sync_offer "$common --json" ;;
                setup,-*) _postfix_sync_offer "$common --yes --dry-run --undo" ;;
                rollback,-* | resume,-*) _postfix_sync_offer "$common" ;;
                probe,*) _postfix_sync_offer "$(_postfix_sync_destinations "$config")" ;;
                rollback,*) _postfix_sync_offer "$(_postfix_sync_generations "$config")" ;;
                ,-*) _postfix_sync_offer "$common --version --once --dry-run --force" ;;
                ,*)
                    [[ $once ]] ||
                        _postfix_sync_offer 'probe doctor explain setup status rollback resume'
                    ;;
            esac
            ;;
    esac
}

# Offer the words that begin with the typed text. (compgen -W would expand them, as a shell does.)
_postfix_sync_offer() {
    local offered
    for offered in $1; do
        [[ $offered == "$cur"* ]] && COMPREPLY+=("$offered")
    done
    # readline takes the text up to the last colon for a word of its own.
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*:}"}"}")
    fi
}

# Print the state directory that a configuration names.
_postfix_sync_state() {
    local found
    found=$(sed -n "s/^state_directory: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" "$1" 2>/dev/null)
    echo "${found:-/var/lib/postfix-sync}"
}

_postfix_sync_destinations() {
    sed -n '/^  "destinations": {$/,/^  }/s/^    "\([][A-Za-z0-9._:-]*\)": {$/\1/p' \
        "$(_postfix_sync_state "$1")/status.json" 2>/dev/null
}

_postfix_sync_generations() {
    local path
    for path in "$(_postfix_sync_state "$1")"/generations/[1-9]*.json.gz; do
        path=${path##*/}
        [[ $path != *\** ]] && echo "${path%.json.gz}"
    done
}

complete -F _postfix_sync postfix-sync
