// Command decoder says what Ollama's handlers see of a request body: Go's own encoding/json, and the fields that
// decide what is run, with the types that Ollama declares.
//
// A line of the input is a path, a space, and a body in base64. The line of the output that answers it is a JSON
// object.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

const longestLine = 64 << 20

// keepAlive reads seconds or a duration with units; whatever is negative means for ever.
type keepAlive struct{ ns int64 }

func (k *keepAlive) UnmarshalJSON(text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	switch given := value.(type) {
	case float64:
		k.ns = int64(given * float64(time.Second))
		if given < 0 {
			k.ns = math.MaxInt64
		}
	case string:
		parsed, err := time.ParseDuration(given)
		if err != nil {
			return err
		}
		k.ns = int64(parsed)
		if parsed < 0 {
			k.ns = math.MaxInt64
		}
	default:
		return fmt.Errorf("neither a number nor a text: %s", text)
	}
	return nil
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type native struct {
	Model     string         `json:"model"`
	KeepAlive *keepAlive     `json:"keep_alive,omitempty"`
	Options   map[string]any `json:"options"`
}

type generate struct {
	native
	Stream   *bool  `json:"stream,omitempty"`
	Prompt   string `json:"prompt"`
	Suffix   string `json:"suffix"`
	System   string `json:"system"`
	Template string `json:"template"`
}

type chat struct {
	native
	Stream   *bool            `json:"stream,omitempty"`
	Messages []map[string]any `json:"messages"`
}

type embed struct {
	native
	Input any `json:"input"`
}

type embeddings struct {
	native
	Prompt string `json:"prompt"`
}

type openAI struct {
	Model         string         `json:"model"`
	Stream        bool           `json:"stream"`
	StreamOptions *streamOptions `json:"stream_options"`
	MaxTokens     *int           `json:"max_tokens"`
}

type completions struct {
	openAI
	Prompt string `json:"prompt"`
	Suffix string `json:"suffix"`
}

type openAIChat struct {
	openAI
	Messages []map[string]any `json:"messages"`
}

type openAIEmbeddings struct {
	Model string `json:"model"`
	Input any    `json:"input"`
}

type responses struct {
	Model           string `json:"model"`
	Stream          *bool  `json:"stream,omitempty"`
	Instructions    string `json:"instructions,omitempty"`
	MaxOutputTokens *int   `json:"max_output_tokens,omitempty"`
}

type messages struct {
	Model     string           `json:"model"`
	Stream    bool             `json:"stream,omitempty"`
	MaxTokens int              `json:"max_tokens"`
	Messages  []map[string]any `json:"messages"`
}

// seen is what would be run; all else is empty where there is an error, which a client would see as a 400.
type seen struct {
	Error        string         `json:"error"`
	Model        string         `json:"model"`
	Stream       *bool          `json:"stream"`
	KeepAliveNs  *int64         `json:"keep_alive_ns"`
	Options      map[string]any `json:"options"`
	OutputCap    *int           `json:"output_cap"`
	IncludeUsage bool           `json:"include_usage"`
}

func (n native) seen(stream *bool) seen {
	found := seen{Model: n.Model, Stream: stream, Options: n.Options}
	if n.KeepAlive != nil {
		found.KeepAliveNs = &n.KeepAlive.ns
	}
	return found
}

func (o openAI) seen() seen {
	usage := o.StreamOptions != nil && o.StreamOptions.IncludeUsage
	return seen{Model: o.Model, Stream: &o.Stream, OutputCap: o.MaxTokens, IncludeUsage: usage}
}

// into reads the first JSON value of a body, as the web framework of Ollama does.
func into[Request any](body []byte, see func(Request) seen) seen {
	var request Request
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&request); err != nil {
		return seen{Error: err.Error()}
	}
	return see(request)
}

func read(path string, body []byte) seen {
	switch path {
	case "/api/generate":
		return into(body, func(r generate) seen { return r.seen(r.Stream) })
	case "/api/chat":
		return into(body, func(r chat) seen { return r.seen(r.Stream) })
	case "/api/embed":
		return into(body, func(r embed) seen { return r.seen(nil) })
	case "/api/embeddings":
		return into(body, func(r embeddings) seen { return r.seen(nil) })
	case "/v1/chat/completions":
		return into(body, func(r openAIChat) seen { return r.seen() })
	case "/v1/completions":
		return into(body, func(r completions) seen { return r.seen() })
	case "/v1/embeddings":
		return into(body, func(r openAIEmbeddings) seen { return seen{Model: r.Model} })
	case "/v1/responses":
		return into(body, func(r responses) seen {
			return seen{Model: r.Model, Stream: r.Stream, OutputCap: r.MaxOutputTokens}
		})
	case "/v1/messages":
		return into(body, func(r messages) seen {
			return seen{Model: r.Model, Stream: &r.Stream, OutputCap: &r.MaxTokens}
		})
	}
	return seen{Error: "no route " + path}
}

func main() {
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	answers := json.NewEncoder(output)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		path, text, _ := strings.Cut(lines.Text(), " ")
		body, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			panic(err)
		}
		if err := answers.Encode(read(path, body)); err != nil {
			panic(err)
		}
	}
	if err := lines.Err(); err != nil {
		panic(err)
	}
}
