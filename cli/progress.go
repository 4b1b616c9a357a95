package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"moss/oci"
	"moss/pull"
)

// progressFor says whose progress it is.
type progressFor struct {
	run    bool // moss run: the image was not here, or had to be asked for
	always bool // --pull always
	quiet  bool
	told   bool // --explain writes to the same terminal: lines, not bars
}

// progress shows a pull: on a terminal one bar for each layer and one for all
// of them, otherwise docker's lines, or nothing. It implements pull.Progress.
//
// The last layer's end closes the bars, so that nothing of them is drawn once
// the container writes to the same terminal.
type progress struct {
	mu     sync.Mutex // never taken by what the bars' goroutines call
	w      io.Writer
	what   progressFor
	tty    bool
	layers []*layerProgress
	left   *atomic.Int32 // layers not yet finished
	bytes  int64         // of all layers, so far
	sum    int64         // of all layers, in the end

	bars  *mpb.Progress
	total *mpb.Bar
}

type layerProgress struct {
	short string
	size  int64
	state atomic.Int32 // a pull.State, or notBegun
	done  bool
	bytes int64
	bar   *mpb.Bar
}

const notBegun = -1

// newProgress writes to f. Quiet, it says nothing; the value is never nil.
func newProgress(f *os.File, what progressFor) *progress {
	return &progress{w: f, what: what, tty: !what.quiet && !what.told && canDraw(f)}
}

// Start implements pull.Progress.
func (p *progress) Start(ref oci.Reference, layers []oci.Descriptor) {
	if p.what.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.abort() // an earlier attempt, at another mirror
	if p.what.run && !p.what.always && p.layers == nil {
		fmt.Fprintf(p.w, "Unable to find image '%s' locally\n", ref.Familiar())
	}
	version := ref.Tag
	if version == "" {
		version = string(ref.Digest)
	}
	from := ref.Repository
	if ref.Registry != oci.DefaultRegistry {
		from = ref.Name()
	}
	fmt.Fprintf(p.w, "%s: Pulling from %s\n", version, from)
	// Not nil any more: a second source does not repeat the first line.
	p.layers, p.left = make([]*layerProgress, len(layers)), new(atomic.Int32)
	p.left.Store(int32(len(layers)))
	p.bytes, p.sum = 0, 0
	for i, d := range layers {
		p.layers[i] = &layerProgress{short: d.Digest.Short(), size: d.Size}
		p.layers[i].state.Store(notBegun)
		p.sum += d.Size
	}
	if p.tty && len(layers) > 0 {
		p.drawBars()
	}
}

func (p *progress) drawBars() {
	p.bars = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(40), mpb.WithRefreshRate(80*time.Millisecond))
	for _, l := range p.layers {
		l.bar = p.bars.AddBar(l.size,
			mpb.PrependDecorators(
				decor.Name(l.short+": "),
				decor.Any(func(decor.Statistics) string { return stateWord(pull.State(l.state.Load())) }, decor.WCSyncSpaceR),
			),
			mpb.AppendDecorators(decor.OnComplete(decor.CountersKiloByte("% .1f / % .1f"), "")),
			mpb.BarFillerClearOnComplete(),
		)
	}
	all, left := len(p.layers), p.left
	p.total = p.bars.AddBar(p.sum,
		mpb.PrependDecorators(
			decor.Any(func(decor.Statistics) string {
				return fmt.Sprintf("%d/%d layers", all-int(left.Load()), all)
			}, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(
			decor.CountersKiloByte("% .1f / % .1f "),
			decor.OnComplete(decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), ""),
		),
	)
}

func stateWord(s pull.State) string {
	switch s {
	case pull.Exists:
		return "Already exists"
	case pull.Downloading:
		return "Downloading"
	case pull.Unpacking:
		return "Extracting"
	case pull.Retrying:
		return "Retrying"
	case pull.Done:
		return "Pull complete"
	default:
		return "Waiting"
	}
}

// Layer implements pull.Progress. Bytes are those of the compressed blob.
func (p *progress) Layer(i int, s pull.State, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i >= len(p.layers) {
		return
	}
	l := p.layers[i]
	if l.done {
		return
	}
	changed := pull.State(l.state.Swap(int32(s))) != s
	if s == pull.Done || s == pull.Exists {
		l.done, bytes = true, l.size
		p.left.Add(-1)
	}
	p.bytes += bytes - l.bytes
	l.bytes = bytes
	if p.bars == nil {
		if changed {
			p.printLine(l, s)
		}
		return
	}
	// A bar that reaches its total is frozen: the last byte waits for the end.
	l.bar.SetCurrent(max(0, min(bytes, l.size-1)))
	p.total.SetCurrent(max(0, min(p.bytes, p.sum-1)))
	if l.done {
		l.bar.SetTotal(l.size, true)
	}
	if p.left.Load() == 0 {
		p.total.SetTotal(p.sum, true)
		p.bars.Wait()
		p.bars, p.total = nil, nil
	}
}

// printLine is docker's output where there is no terminal.
func (p *progress) printLine(l *layerProgress, s pull.State) {
	switch s {
	case pull.Waiting:
		fmt.Fprintf(p.w, "%s: Pulling fs layer\n", l.short)
	case pull.Exists, pull.Retrying, pull.Done:
		fmt.Fprintf(p.w, "%s: %s\n", l.short, stateWord(s))
	}
}

// Close stops drawing, for a pull that failed; after one that succeeded it
// does nothing. It may be called twice.
func (p *progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.abort()
}

// abort leaves the bars as they are.
func (p *progress) abort() {
	if p.bars == nil {
		return
	}
	for _, l := range p.layers {
		l.bar.Abort(false)
	}
	p.total.Abort(false)
	p.bars.Wait()
	p.bars, p.total = nil, nil
}
