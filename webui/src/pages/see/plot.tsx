// Numbers over time as bars, with the same numbers as a table beside them.
import { useId } from "preact/hooks";
import { type Bucket, type Series, scale, total } from "./counts";

interface Props {
  title: string;
  buckets: Bucket[];
  series: readonly { name: Series; label: string }[];
}

const WIDTH = 640;
const HEIGHT = 180;
const LEFT = 44;
const BOTTOM = 24;
const TOP = 8;

export function Plot({ title, buckets, series }: Props) {
  const id = useId();
  const most = Math.max(0, ...buckets.flatMap((bucket) => series.map(({ name }) => bucket.values[name])));
  const { top, lines } = scale(most);
  const high = HEIGHT - TOP - BOTTOM;
  const wide = (WIDTH - LEFT) / Math.max(buckets.length, 1);
  const bar = Math.max((wide * 0.8) / series.length, 1);
  const every = Math.ceil(buckets.length / 8);
  const sums = series.map(({ name, label }) => `${label}: ${total(buckets, name)}`).join(", ");
  return (
    <section class="see-plot" aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      <p class="see-legend">
        {series.map(({ name, label }, index) => (
          <span key={name}>
            <svg width="12" height="12" aria-hidden="true">
              <title>{label}</title>
              <rect width="12" height="12" class={`see-bar${index}`} />
            </svg>{" "}
            {label}: <strong>{total(buckets, name)}</strong>
          </span>
        ))}
      </p>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={`${title}. ${sums}. The table below has the numbers.`}
      >
        <title>{title}</title>
        {lines.map((value) => {
          const y = TOP + high - (value / top) * high;
          return (
            <g key={value}>
              <line x1={LEFT} x2={WIDTH} y1={y} y2={y} class="see-line" />
              <text x={LEFT - 6} y={y + 4} text-anchor="end" class="see-label">
                {value}
              </text>
            </g>
          );
        })}
        {buckets.map((bucket, at) => (
          <g key={bucket.begins.getTime()}>
            {series.map(({ name, label }, index) => {
              const tall = (bucket.values[name] / top) * high;
              return (
                <rect
                  key={name}
                  x={LEFT + at * wide + wide * 0.1 + index * bar}
                  y={TOP + high - tall}
                  width={bar}
                  height={tall}
                  class={`see-bar${index}`}
                >
                  <title>{`${bucket.label}: ${bucket.values[name]} ${label}`}</title>
                </rect>
              );
            })}
            {at % every === 0 && (
              <text x={LEFT + at * wide + wide / 2} y={HEIGHT - 6} text-anchor="middle" class="see-label">
                {bucket.label}
              </text>
            )}
          </g>
        ))}
      </svg>
      <details>
        <summary>{title} as a table</summary>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by keyboard */}
        <section class="scroll see-numbers" tabIndex={0} aria-label={`${title} as a table`}>
          <table>
            <thead>
              <tr>
                <th scope="col">From</th>
                {series.map(({ name, label }) => (
                  <th key={name} scope="col">
                    {label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {buckets.map((bucket) => (
                <tr key={bucket.begins.getTime()}>
                  <th scope="row">{bucket.begins.toLocaleString()}</th>
                  {series.map(({ name }) => (
                    <td key={name}>{bucket.values[name]}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      </details>
    </section>
  );
}
