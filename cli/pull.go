package cli

import (
	"context"
	"fmt"
	"os/signal"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"moss/fail"
	"moss/oci"
	"moss/pull"
)

func pullVerb() *verb {
	return &verb{
		names: []string{"pull", "image pull"},
		args:  "[OPTIONS] NAME[:TAG|@DIGEST]",
		short: "Download an image from a registry",
		long: `Names without a registry are docker.io's, unless registries.conf says otherwise.
Credentials come from ~/.docker/config.json, $XDG_RUNTIME_DIR/containers/auth.json
and their helpers.`,
		examples: `
# The tag latest of Docker Hub's debian
moss pull debian
# Another registry, a tag, another platform
moss pull --platform linux/arm64 quay.io/libpod/alpine:3.10.2
# A registry on this machine, plain http
moss pull localhost:5000/app
# The full reference only, for scripts
moss pull -q debian:12`,
		min: 1, max: 1,
		complete: (*command).imageCandidates,
		flags: func(c *command, f *pflag.FlagSet) action {
			p := &pullOptions{command: c}
			boolFlag(f, &p.quiet, "quiet", "q", "Suppress verbose output")
			f.Var(platformValue{&p.platform}, "platform", "Set platform if server is multi-platform capable")
			tls := f.VarPF(optionalBool{&p.tlsVerify}, "tls-verify", "", "Require HTTPS and verify certificates (default true, except for loopback addresses)")
			tls.NoOptDefVal = "true"
			return p.run
		},
	}
}

type pullOptions struct {
	*command
	quiet     bool
	platform  *oci.Platform
	tlsVerify *bool
}

func (p *pullOptions) run(args []string) error {
	e, err := p.open()
	if err != nil {
		return err
	}
	defer e.Close()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	progress := newProgress(p.out, progressFor{quiet: p.quiet, told: p.explain.On()})
	defer progress.Close()
	result, err := e.Pull(ctx, args[0], pull.Options{
		Platform: p.platform, TLSVerify: p.tlsVerify, Progress: progress, Explain: p.explain, Warn: p.warn,
	})
	progress.Close()
	if err != nil {
		if ctx.Err() != nil {
			return &fail.ExitError{Status: fail.StatusSignal + int(unix.SIGINT), Err: &fail.Error{
				Op: "pulling", On: args[0], Err: context.Cause(ctx),
				Why: "interrupted; the layers that were finished are kept",
			}}
		}
		return err
	}
	if !p.quiet {
		fmt.Fprintf(p.out, "Digest: %s\nStatus: %s for %s\n", result.Digest, freshness(result.Fresh), result.Ref.Familiar())
	}
	_, err = fmt.Fprintln(p.out, result.Ref)
	return err
}

func freshness(fresh bool) string {
	if fresh {
		return "Downloaded newer image"
	}
	return "Image is up to date"
}
