package cli

import (
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"moss/fail"
)

func completionVerb() *verb {
	return &verb{
		names: []string{"completion"},
		args:  "bash|zsh|fish",
		short: "Generate the autocompletion script for the specified shell",
		examples: `
# In this shell, now
source <(moss completion bash)
# In every new one
moss completion bash > ~/.local/share/bash-completion/completions/moss
moss completion zsh > "${fpath[1]}/_moss"
moss completion fish > ~/.config/fish/completions/moss.fish`,
		min: 1, max: 1,
		complete: func(*command, []string) []candidate {
			return []candidate{{word: "bash"}, {word: "zsh"}, {word: "fish"}}
		},
		flags: func(c *command, _ *pflag.FlagSet) action { return c.completion },
	}
}

func (c *command) completion(args []string) error {
	var script string
	switch args[0] {
	case "bash":
		script = bashCompletion
	case "zsh":
		script = zshCompletion
	case "fish":
		script = fishCompletion
	default:
		return &fail.Usage{Command: "completion", Err: fmt.Errorf("no completion for shell %q: want bash, zsh or fish", args[0])}
	}
	_, err := io.WriteString(c.out, script)
	return err
}

// The scripts hand the words of the line to moss __complete, whose answer is
// described at completeWord.
const (
	// bash splits words at ":" and "=" (COMP_WORDBREAKS), and replaces only
	// what follows the last of them: the words are read from the line itself,
	// and of each candidate the part before is cut off.
	bashCompletion = `# bash completion for moss; source it or put it into bash-completion's directory.
_moss() {
	local line="${COMP_LINE:0:COMP_POINT}" words=() also word cur
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	cur="${words[${#words[@]}-1]}"
	local skip="${cur%"${cur##*[:=]}"}"
	COMPREPLY=()
	{
		read -r also
		while IFS=$'\t' read -r word _; do
			COMPREPLY+=("${word#"$skip"}")
		done
	} < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
	case $also in
	:files) compopt -o filenames; while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "${cur##*[:=]}") ;;
	:dirs) compopt -o filenames; while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "${cur##*[:=]}") ;;
	esac
	[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
	return 0
}
complete -F _moss moss
`
	zshCompletion = `#compdef moss
# zsh completion for moss; put it as _moss into a directory of $fpath.
_moss() {
	local also line word
	local -a lines found
	lines=("${(@f)$(moss __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	also=$lines[1]
	for line in "${(@)lines[2,-1]}"; do
		[[ -z $line ]] && continue
		word="${line%%$'\t'*}"
		word="${word//:/\\:}"
		if [[ $line == *$'\t'* ]]; then
			found+=("$word:${line#*$'\t'}")
		else
			found+=("$word")
		fi
	done
	(( $#found )) && _describe -t moss moss found
	case $also in
	:files) _files ;;
	:dirs) _files -/ ;;
	esac
}
if [[ $funcstack[1] == _moss ]]; then
	_moss "$@"
else
	compdef _moss moss
fi
`
	fishCompletion = `# fish completion for moss; put it into ~/.config/fish/completions.
function __moss_complete
	set -l words (commandline -opc) (commandline -ct)
	set -l answer (moss __complete $words[2..-1] 2>/dev/null)
	test (count $answer) -gt 0; or return
	switch $answer[1]
		case :files
			__fish_complete_path (commandline -ct)
		case :dirs
			__fish_complete_directories (commandline -ct)
	end
	string join \n -- $answer[2..-1]
end
complete -c moss -f -a '(__moss_complete)'
`
)
