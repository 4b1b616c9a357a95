package cli

import (
	"fmt"
	"strconv"
	"time"
)

// humanSize words n bytes as docker does: four significant digits at most
// (three in its tables), units of 1000.
func humanSize(n int64, digits int) string {
	units := [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	size, i := float64(n), 0
	for size >= 1000 && i < len(units)-1 {
		size /= 1000
		i++
	}
	return fmt.Sprintf("%.*g%s", digits, size, units[i])
}

// humanDuration words d as docker does: "Less than a second", "5 minutes",
// "About an hour", "3 weeks".
func humanDuration(d time.Duration) string {
	seconds, minutes := int(d.Seconds()), int(d.Minutes())
	hours := int(d.Hours() + 0.5)
	switch {
	case seconds < 1:
		return "Less than a second"
	case seconds == 1:
		return "1 second"
	case seconds < 60:
		return strconv.Itoa(seconds) + " seconds"
	case minutes == 1:
		return "About a minute"
	case minutes < 60:
		return strconv.Itoa(minutes) + " minutes"
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return strconv.Itoa(hours) + " hours"
	case hours < 24*7*2:
		return strconv.Itoa(hours/24) + " days"
	case hours < 24*30*2:
		return strconv.Itoa(hours/24/7) + " weeks"
	case hours < 24*365*2:
		return strconv.Itoa(hours/24/30) + " months"
	default:
		return strconv.Itoa(int(d.Hours())/24/365) + " years"
	}
}

// ago is "3 minutes ago", or "N/A" for the time that never was.
func ago(now, then time.Time) string {
	if then.IsZero() {
		return "N/A"
	}
	return humanDuration(now.Sub(then)) + " ago"
}

// ellipsis cuts s to width runes, the last of which is "…".
func ellipsis(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	return string(runes[:width-1]) + "…"
}

// shortID is docker's: 12 digits.
func shortID(s string) string {
	if len(s) > 12 {
		return s[:12]
	}
	return s
}

// timestamp is how docker's tables and JSON lists print a time.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}
