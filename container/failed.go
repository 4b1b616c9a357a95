package container

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/namespaces"
	"moss/overlay"
)

// explainStart turns a step that failed into an error that teaches, with
// docker's exit status.
func (e *Engine) explainStart(err error, c *container, s *namespaces.Spec, view overlay.View) error {
	var step *namespaces.StepError
	if !errors.As(err, &step) {
		return err
	}
	switch {
	case step.Call == "execve":
		return explainExec(step, c, s, view)
	case step.Call == "mount" && strings.HasPrefix(step.Text, `mount("overlay"`):
		if lesson := overlay.Explain(step.Err, view, e.dir(c.ID)+"/upper", e.dir(c.ID)+"/work"); lesson != nil {
			return lesson
		}
	case step.Call == "chdir" && step.Step == "Enter the working directory":
		lesson := &fail.Error{Op: "entering the working directory", On: s.WorkingDir, Err: step.Err, Try: "another directory with -w"}
		if info, err := view.Stat(s.WorkingDir); err == nil && !info.IsDir() {
			lesson.Why = "it is a file in the image"
		}
		return &fail.ExitError{Status: fail.StatusCannotExec, Err: lesson}
	case step.Call == "move_mount" || step.Call == "mount" && strings.HasPrefix(step.Step, "Mount /"):
		lesson := &fail.Error{Op: "mounting on", On: strings.TrimPrefix(step.Step, "Mount "), Err: step.Err}
		switch {
		case errors.Is(step.Err, unix.ENOTDIR):
			lesson.Why = "one of source and target is a directory, the other is not (or the image has a symlink where a directory belongs)"
		case errors.Is(step.Err, unix.ENOENT):
			lesson.Why = "the target cannot be made: a directory above it is a symlink that leads nowhere in the image"
		}
		return lesson
	case errors.Is(step.Err, unix.ENOTDIR) && strings.Contains(step.Text, "O_NOFOLLOW"):
		return &fail.Error{Op: "mounting the kernel's file systems:", On: step.Text, Err: step.Err,
			Why: "the image has a symlink or a file in this place; following it could hide what must be hidden",
			Try: "rebuild the image with directories /proc, /sys and /dev"}
	}
	return namespaces.ExplainStep(err)
}

// explainExec says why no attempt at execve(2) succeeded. What the kernel calls
// "no such file" may be the file, its interpreter, or every place of PATH.
func explainExec(step *namespaces.StepError, c *container, s *namespaces.Spec, view overlay.View) error {
	name := s.Argv[0]
	lesson := &fail.Error{Op: "exec", On: fmt.Sprintf("%q", name), Err: unix.ENOENT}
	status := fail.StatusNotFound
	image := view
	for i, errno := range step.Exec {
		found := step.Path[i]
		view, inView, known := seen(image, s, found)
		if !known {
			lesson.Err = errno
			if errno != unix.ENOENT && errno != unix.ENOTDIR {
				status = fail.StatusCannotExec
			}
			continue
		}
		switch errno {
		case unix.ENOENT, unix.ENOTDIR:
			if info, err := view.Stat(inView); err == nil && !info.IsDir() {
				lesson.Err = errno
				lesson.Why, lesson.Try = interpreter(image, fileHead(view, inView), view, inView, found)
				return &fail.ExitError{Status: status, Err: lesson}
			}
			continue
		case unix.EACCES:
			if info, err := view.Stat(inView); err == nil && info.IsDir() && found != name {
				continue // a directory of that name in PATH
			}
			status, lesson.Err = fail.StatusCannotExec, errno
			lesson.Why, lesson.Try = whyDenied(view, inView, found)
		case unix.ENOEXEC:
			status, lesson.Err = fail.StatusCannotExec, errno
			lesson.Why, lesson.Try = whyNotExecutable(fileHead(view, inView), found, c)
			return &fail.ExitError{Status: status, Err: lesson}
		default:
			status, lesson.Err = fail.StatusCannotExec, errno
			return &fail.ExitError{Status: status, Err: lesson}
		}
	}
	if status == fail.StatusNotFound {
		if strings.Contains(name, "/") {
			if _, _, known := seen(image, s, name); known {
				lesson.Why = "there is no such file in the container"
			}
		} else {
			lesson.Err = errors.New("executable file not found in $PATH")
			lesson.Why = "it is in none of these: " + directories(step.Path)
		}
		if strings.Contains(name, " ") {
			lesson.Try = "the command is one word here; leave out the quotes, or use sh -c '…'"
		}
	}
	return &fail.ExitError{Status: status, Err: lesson}
}

// seen says where the container sees name: in the image, or in what is mounted
// over it. known is false where nobody can look from outside.
func seen(image overlay.View, s *namespaces.Spec, name string) (view overlay.View, inView string, known bool) {
	view, inView, known = image, name, true
	longest := -1
	for _, m := range s.Mounts {
		rest, below := strings.CutPrefix(path.Clean(name), m.Target)
		if !below || rest != "" && rest[0] != '/' || len(m.Target) < longest {
			continue
		}
		longest = len(m.Target)
		switch {
		case m.Type != "bind":
			known = false
		case m.File:
			view, inView, known = overlay.View{path.Dir(m.Source)}, "/"+path.Base(m.Source), true
		default:
			view, inView, known = overlay.View{m.Source}, path.Clean("/"+rest), true
		}
	}
	return view, inView, known
}

func directories(paths []string) string {
	var dirs []string
	for _, p := range paths {
		dirs = append(dirs, path.Dir(p))
	}
	return strings.Join(dirs, ":")
}

func whyDenied(view overlay.View, inView, found string) (why, try string) {
	info, err := view.Stat(inView)
	switch {
	case err != nil:
		return "", ""
	case info.IsDir():
		return found + " is a directory", ""
	case info.Mode()&0o111 == 0:
		return fmt.Sprintf("%s has mode %#o, which nobody may execute", found, info.Mode().Perm()), "chmod +x in the image, or name its interpreter: sh " + found
	case !info.Mode().IsRegular():
		return found + " is not a regular file", ""
	}
	return "", ""
}

// interpreter reports the interpreter that a script or a dynamic binary names
// and the image lacks (execve(2), ENOENT).
func interpreter(image overlay.View, head []byte, view overlay.View, inView, name string) (why, try string) {
	interp, kind := "", "script"
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if strings.HasSuffix(string(line), "\r") {
			return fmt.Sprintf("%s names the interpreter %q: its lines end in CRLF", name, strings.TrimSpace(string(line))+`\r`), "convert it with dos2unix"
		}
		if fields := strings.Fields(string(line)); len(fields) > 0 {
			interp = fields[0]
		}
	} else if f, err := view.Open(inView); err == nil {
		defer f.Close()
		if bin, err := elf.NewFile(f); err == nil {
			kind = "program"
			for _, p := range bin.Progs {
				if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
					b := make([]byte, p.Filesz)
					if _, err := p.ReadAt(b, 0); err == nil {
						interp = strings.TrimRight(string(b), "\x00")
					}
				}
			}
		}
	}
	if interp == "" {
		return "", ""
	}
	if _, err := image.Stat(interp); !errors.Is(err, fs.ErrNotExist) {
		return "", ""
	}
	if kind == "program" {
		return fmt.Sprintf("%s is there, but it is a dynamic program and the image has no %s to load it", name, interp),
			"build it statically (Go: CGO_ENABLED=0; C: -static), or use an image with that C library"
	}
	return fmt.Sprintf("%s is there, but its interpreter %s is not in the image", name, interp), "install the interpreter in the image"
}

// whyNotExecutable looks at a file that the kernel has no loader for.
func whyNotExecutable(head []byte, name string, c *container) (why, try string) {
	switch {
	case len(head) == 0:
		return name + " is empty", ""
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)) && len(head) >= 20:
		order := binary.ByteOrder(binary.LittleEndian)
		if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
			order = binary.BigEndian
		}
		machine := strings.TrimPrefix(elf.Machine(order.Uint16(head[18:])).String(), "EM_")
		return fmt.Sprintf("%s is a program for %s, and this machine runs %s", name, strings.ToLower(machine), hostArch()),
			"an image for this machine: moss pull --platform " + hostArch() + " " + c.ImageName
	case bytes.HasPrefix(head, []byte("#!")):
		return "", ""
	case bytes.IndexByte(head, 0) < 0:
		return name + " is a script without a first line that names its interpreter", "begin it with #!/bin/sh, or run sh " + name
	}
	return name + " is no program this kernel knows", ""
}

func fileHead(view overlay.View, name string) []byte {
	f, err := view.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	return b[:n]
}
