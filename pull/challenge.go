package pull

import "strings"

// challenge is one way in that a server offers with a 401.
type challenge struct {
	scheme string            // lower case: "bearer", "basic"
	params map[string]string // names in lower case
}

// parseChallenges reads the WWW-Authenticate lines of a response. A line may
// hold several challenges, and the commas between challenges are the same as
// those between parameters: what tells them apart is the "=" behind a
// parameter's name (RFC 9110, Section 11.6.1). What cannot be read is left out;
// a server that offers nothing readable offers nothing.
func parseChallenges(lines []string) []challenge {
	var all []challenge
	for _, line := range lines {
		s := challengeScanner{rest: line}
		for {
			s.skip(" \t,")
			scheme := s.token()
			if scheme == "" {
				break
			}
			c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
			for {
				s.skip(" \t,")
				before := s.rest
				name, value, ok := s.param()
				if !ok {
					s.rest = before
					break
				}
				if _, twice := c.params[name]; !twice {
					c.params[name] = value
				}
			}
			all = append(all, c)
		}
	}
	return all
}

type challengeScanner struct{ rest string }

func (s *challengeScanner) skip(chars string) { s.rest = strings.TrimLeft(s.rest, chars) }

// token takes RFC 9110's "token" (Section 5.6.2) and a token68's extra
// characters, which occur in unquoted values.
func (s *challengeScanner) token() string {
	i := 0
	for i < len(s.rest) && isTokenByte(s.rest[i]) {
		i++
	}
	t := s.rest[:i]
	s.rest = s.rest[i:]
	return t
}

// param takes name=value or name="value".
func (s *challengeScanner) param() (name, value string, ok bool) {
	name = strings.ToLower(s.token())
	s.skip(" \t")
	if name == "" || !strings.HasPrefix(s.rest, "=") {
		return "", "", false
	}
	s.skip("=") // more than one "=" ends a token68, which no scheme here uses
	s.skip(" \t")
	if !strings.HasPrefix(s.rest, `"`) {
		return name, s.token(), true
	}
	s.rest = s.rest[1:]
	var b strings.Builder
	for s.rest != "" {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == '"':
			return name, b.String(), true
		case c == '\\' && s.rest != "":
			b.WriteByte(s.rest[0])
			s.rest = s.rest[1:]
		default:
			b.WriteByte(c)
		}
	}
	return name, b.String(), true // the closing quote is missing; some servers forget it
}

func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~/:", c) >= 0
}
