// Command mkimage makes the images that the tests and benchmarks run, and
// pushes them to a throw-away registry. It uses nothing of moss: what moss
// pulls was made by somebody else.
//
//	mkimage push HOST:PORT IMAGE…            the built-in images, by name; all when none is named
//	mkimage layers HOST:PORT NAME FILE…      an image of layers that exist as .tar.gz files
//	mkimage split N FILE.tar PREFIX          a tar dealt out to N files PREFIX1.tar.gz …, of like size
//	mkimage layout DIR IMAGE                 a built-in image as an OCI image layout
//	mkimage spec BUNDLE PROFILE ARG…         BUNDLE/config.json for an OCI runtime, with docker's seccomp PROFILE
//	mkimage list [-no-owner] [-skip A,B] DIR a tree, one line an entry, with all that should survive
//	mkimage expect [-no-owner] [-skip A,B] IMAGE
//	                                         the same listing of a built-in image, computed from its layers
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("push, layers, split, layout, spec, list or expect?")
	}
	verb, args := args[0], args[1:]
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	var look listing
	flags.BoolVar(&look.noOwner, "no-owner", false, "leave out owners")
	skip := flags.String("skip", "", "paths to leave out, with what is below them")
	busybox := flags.String("busybox", "/bin/busybox", "the static busybox to put in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *skip != "" {
		look.skip = strings.Split(*skip, ",")
	}
	args = flags.Args()
	switch {
	case verb == "push" && len(args) > 0:
		all, err := images(*busybox)
		if err != nil {
			return err
		}
		for _, img := range all {
			if len(args) > 1 && !slices.Contains(args[1:], img.name) {
				continue
			}
			digest, err := img.push(args[0])
			if err != nil {
				return fmt.Errorf("pushing %s: %w", img.name, err)
			}
			fmt.Println(img.name, digest)
		}
		return nil
	case verb == "layers" && len(args) > 2:
		digest, err := pushFiles(args[0], args[1], args[2:])
		if err == nil {
			fmt.Println(args[1], digest)
		}
		return err
	case verb == "split" && len(args) == 3:
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 {
			return fmt.Errorf("split into %q?", args[0])
		}
		return split(n, args[1], args[2])
	case verb == "layout" && len(args) == 2:
		img, err := named(args[1], *busybox)
		if err != nil {
			return err
		}
		return img.layout(args[0])
	case verb == "spec" && len(args) > 2:
		return spec(args[0], args[1], args[2:])
	case verb == "list" && len(args) == 1:
		return look.tree(os.Stdout, args[0])
	case verb == "expect" && len(args) == 1:
		img, err := named(args[0], *busybox)
		if err != nil {
			return err
		}
		return look.merged(os.Stdout, img.layers)
	}
	return fmt.Errorf("%s: wrong arguments", verb)
}

func named(name, busybox string) (image, error) {
	all, err := images(busybox)
	if err != nil {
		return image{}, err
	}
	for _, img := range all {
		if img.name == name {
			return img, nil
		}
	}
	return image{}, fmt.Errorf("no built-in image %q", name)
}
