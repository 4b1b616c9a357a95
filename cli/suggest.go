package cli

import (
	"fmt"
	"slices"
	"strings"
)

// didYouMean returns "; did you mean …?" for the known word closest to typed,
// or "" when none is close enough to be a slip of the fingers.
func didYouMean(prefix, typed string, known []string) string {
	if best := closest(typed, known); best != "" {
		return fmt.Sprintf("; did you mean '%s%s'?", prefix, best)
	}
	return ""
}

// closest returns the known word within a third of typed's length in edits.
func closest(typed string, known []string) string {
	best, bestEdits := "", max(1, len(strings.TrimLeft(typed, "-"))/3)+1
	for _, word := range known {
		if n := editDistance(strings.ToLower(typed), strings.ToLower(word)); n < bestEdits {
			best, bestEdits = word, n
		}
	}
	if best == "" && len(typed) > 4 {
		// --volumes-from for --volume is many edits and yet one thought.
		i := slices.IndexFunc(known, func(w string) bool { return strings.HasPrefix(w, typed) })
		if i >= 0 {
			best = known[i]
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of
// neighbours (optimal string alignment) that make b of a.
func editDistance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// dockerRunFlags are flags of docker run that moss does not have yet. Naming
// them spares their users a search for the right spelling.
const dockerRunFlags = " -a --attach --annotation --blkio-weight --blkio-weight-device -c --cpu-shares" +
	" --cgroup-parent --cgroupns --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpus" +
	" --cpuset-cpus --cpuset-mems -d --detach --detach-keys --device --device-cgroup-rule" +
	" --device-read-bps --device-read-iops --device-write-bps --device-write-iops" +
	" --disable-content-trust --domainname --expose --gpus --health-cmd --health-interval" +
	" --health-retries --health-start-interval --health-start-period --health-timeout --ip --ip6" +
	" --ipc --isolation --link --link-local-ip --log-driver --log-opt --mac-address -m --memory" +
	" --memory-reservation --memory-swap --memory-swappiness --network-alias --no-healthcheck" +
	" --oom-kill-disable --oom-score-adj --pid --pids-limit -p --publish -P --publish-all --restart" +
	" --runtime --sig-proxy --stop-timeout --storage-opt --sysctl --userns --uts --volume-driver --volumes-from "

// dockerVerbs are docker's commands that moss does not have yet.
const dockerVerbs = " attach build commit cp create diff events exec export history import kill load login logout logs" +
	" pause port push rename restart save search start stats stop tag top unpause update wait builder buildx compose" +
	" network volume system manifest context plugin container image prune "

// notYet says so when flag is one of docker's that moss lacks, else "".
func notYet(verbName, flag string) string {
	if verbName == "run" && strings.Contains(dockerRunFlags, " "+flag+" ") {
		return "docker run has " + flag + ", moss run does not yet"
	}
	return ""
}
