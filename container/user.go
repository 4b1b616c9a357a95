package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	mobyuser "github.com/moby/sys/user"

	"moss/fail"
	"moss/overlay"
)

// user is whom the payload runs as, in the container's ids.
type user struct {
	uid, gid int
	groups   []int
	home     string
}

// lookUpUser resolves an image's USER or -u ("name", "uid", "name:group", …)
// in the image's own /etc/passwd and /etc/group, as docker does: names mean
// what they mean inside.
func lookUpUser(view overlay.View, spec string, groupAdd []string) (user, error) {
	const limit = 4 << 20
	passwd, err := view.ReadFile("/etc/passwd", limit)
	if err != nil && !absent(err) {
		return user{}, fmt.Errorf("reading the image's /etc/passwd: %w", err)
	}
	group, err := view.ReadFile("/etc/group", limit)
	if err != nil && !absent(err) {
		return user{}, fmt.Errorf("reading the image's /etc/group: %w", err)
	}
	found, err := mobyuser.GetExecUser(spec, &mobyuser.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		lesson := &fail.Error{Op: "finding user", On: spec, Err: err}
		if len(passwd) == 0 {
			lesson.Why, lesson.Try = "the image has no /etc/passwd", "a number: -u 1000:1000"
		} else {
			lesson.Why, lesson.Try = "names are looked up in the image's /etc/passwd and /etc/group", "a number, or a name that the image has"
		}
		return user{}, lesson
	}
	u := user{uid: found.Uid, gid: found.Gid, groups: found.Sgids, home: found.Home}
	if len(groupAdd) > 0 {
		more, err := mobyuser.GetAdditionalGroups(groupAdd, bytes.NewReader(group))
		if err != nil {
			return user{}, &fail.Error{Op: "--group-add:", Err: err, Try: "a number, or a group that the image has"}
		}
		u.groups = append(u.groups, more...)
	}
	return u, nil
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
