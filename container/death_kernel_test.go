package container

import (
	"testing"
	"time"
)

// TestDeathKernel kills the moss of a payload that has changed its user, as
// gosu(1), su-exec(1) and many servers do. The kernel forgets PR_SET_PDEATHSIG
// then (PR_SET_PDEATHSIG(2const)).
func TestDeathKernel(t *testing.T) {
	m := ownMachine(t)
	img := m.plain(t)
	for name, o := range map[string]Options{
		"plain":           {Args: []string{"ready", "sleep 5000"}},
		"another user":    {Args: []string{"setuid 1000", "ready", "sleep 5000"}},
		"as another user": {User: "1000", Args: []string{"ready", "sleep 5000"}},
		"init":            {Init: true, Args: []string{"setuid 1000", "ready", "sleep 5000"}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Image, o.Network, o.Name, o.Remove = img, "none", "mortal", true
			cmd := m.command(o)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var r *Record
			var err error
			for range 500 {
				if r, err = m.Find("mortal"); err == nil && r.Status == Running {
					time.Sleep(100 * time.Millisecond)
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			cmd.Process.Kill()
			cmd.Wait()
			if err != nil || !gone(r.Pid, r.StartTime) {
				t.Errorf("the payload lives on: %v", err)
			}
			m.List()
			m.empty(t)
		})
	}
}
