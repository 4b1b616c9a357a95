package container

import (
	"bytes"
	"errors"
	"io/fs"

	mobyuser "github.com/moby/sys/user"

	"moss/fail"
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
func lookUpUser(o *outline, spec string, groupAdd []string) (user, error) {
	found, err := mobyuser.GetExecUser(spec, &mobyuser.ExecUser{Home: "/"}, bytes.NewReader(o.Passwd), bytes.NewReader(o.Group))
	if err != nil {
		lesson := &fail.Error{Op: "finding user", On: spec, Err: err}
		if len(o.Passwd) == 0 {
			lesson.Why, lesson.Try = "the image has no /etc/passwd", "a number: -u 1000:1000"
		} else {
			lesson.Why, lesson.Try = "names are looked up in the image's /etc/passwd and /etc/group", "a number, or a name that the image has"
		}
		return user{}, lesson
	}
	u := user{uid: found.Uid, gid: found.Gid, groups: found.Sgids, home: found.Home}
	if len(groupAdd) > 0 {
		more, err := mobyuser.GetAdditionalGroups(groupAdd, bytes.NewReader(o.Group))
		if err != nil {
			return user{}, &fail.Error{Op: "--group-add", Err: err, Try: "a number, or a group that the image has"}
		}
		u.groups = append(u.groups, more...)
	}
	return u, nil
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
